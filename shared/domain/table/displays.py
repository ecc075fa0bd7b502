"""Rows of the table: graphics, video, sound and input."""

ROWS = """
devices/graphics             lasting  -
devices/graphics@type        lasting  =vnc|spice
# The guest has its video card and sees no screen: without one that goes along it has none at the recipient.
devices/graphics@type=sdl|desktop    host any     not kept: a window on the screen of the host
devices/graphics@type=rdp            host any     not kept: a service of the host
devices/graphics@type=dbus           host any     not kept: leads to a message bus of the host
devices/graphics@type=egl-headless   host any     not kept: the host's graphics card draws the screen
devices/graphics@port        host     any      a port that the recipient chooses
devices/graphics@tlsPort     host     any      a port that the recipient chooses
devices/graphics@websocket   host     any      a port that the recipient chooses
devices/graphics@autoport    host     any      a port that the recipient chooses
devices/graphics@listen      host     any      an address that the recipient chooses
devices/graphics@address     host     any      an address that the recipient chooses
devices/graphics@socket      host     path     an address that the recipient chooses
devices/graphics@passwd      host     secret   not kept: a password never leaves its host; set one at the recipient
devices/graphics@passwdValidTo host   any      not kept: a password never leaves its host; set one at the recipient
devices/graphics@connected   host     any      not kept: a password never leaves its host; set one at the recipient
devices/graphics@username    host     any      not kept: a user of the host
devices/graphics@display     host     any      not kept: a screen of the host
devices/graphics@xauth       host     path     not kept: a screen of the host
devices/graphics@fullscreen  host     any      not kept: a screen of the host
devices/graphics@p2p         host     any      not kept: a message bus of the host
devices/graphics@multiUser   host     any      not kept: a service of the host
devices/graphics@replaceUser host     any      not kept: a service of the host
devices/graphics@keymap      lasting  word
devices/graphics@sharePolicy lasting  =allow-exclusive|force-shared|ignore
devices/graphics@powerControl lasting =yes|no
devices/graphics@defaultMode host     any      as the recipient's SPICE is set up
devices/graphics/channel/**  host     any      as the recipient's SPICE is set up
devices/graphics/listen/**   host     any      an address that the recipient chooses
devices/graphics/audio/**    live     any      libvirt's number of where sound goes
devices/graphics/image                  lasting  -
devices/graphics/image@compression      lasting  =auto_glz|auto_lz|quic|glz|lz|off
devices/graphics/jpeg                   lasting  -
devices/graphics/jpeg@compression       lasting  =auto|never|always
devices/graphics/zlib                   lasting  -
devices/graphics/zlib@compression       lasting  =auto|never|always
devices/graphics/playback               lasting  -
devices/graphics/playback@compression   lasting  =on|off
devices/graphics/streaming              lasting  -
devices/graphics/streaming@mode         lasting  =filter|all|off
devices/graphics/clipboard              lasting  -
devices/graphics/clipboard@copypaste    lasting  =yes|no
devices/graphics/filetransfer           lasting  -
devices/graphics/filetransfer@enable    lasting  =yes|no
devices/graphics/mouse                  lasting  -
devices/graphics/mouse@mode             lasting  =client|server
devices/graphics/gl                     lasting  -
devices/graphics/gl@enable              lasting  =no
devices/graphics/gl@enable=yes          host     any      not kept: the host's graphics card draws the screen
devices/graphics/gl@rendernode          host     path     not kept: the host's graphics card draws the screen

devices/video                           abi      -
devices/video/driver@name               abi      =qemu
devices/video/driver@name=vhostuser     refused  any      a program of the host draws for the guest
devices/video/driver@vgaconf            refused  any      not a VM of QEMU, but of bhyve
devices/video/model                     abi      -
devices/video/model@type                abi      =vga|cirrus|vmvga|qxl|virtio|none|bochs|ramfb
devices/video/model@type=xen|vbox|gop   refused  any      not a video card of QEMU
devices/video/model@ram                 abi      number
devices/video/model@vram                abi      number
devices/video/model@vram64              abi      number
devices/video/model@vgamem              abi      number
devices/video/model@heads               abi      number
devices/video/model@primary             abi      =yes|no
devices/video/model@blob                abi      =on|off
devices/video/model/resolution          abi      -
devices/video/model/resolution@x        abi      number
devices/video/model/resolution@y        abi      number
devices/video/model/acceleration            abi      -
devices/video/model/acceleration@accel2d    abi      =yes|no
devices/video/model/acceleration@accel3d    abi      =no
devices/video/model/acceleration@accel3d=yes refused any      drawn by the host's graphics card; QEMU cannot migrate it
devices/video/model/acceleration@rendernode refused  path     the host's graphics card draws for the guest

devices/sound                abi      -
devices/sound@model          abi      =ac97|es1370|ich6|ich7|ich9|pcspk|sb16|usb|virtio
devices/sound@multichannel   abi      =yes|no
devices/sound@streams        abi      number
devices/sound/codec          abi      -
devices/sound/codec@type     abi      =duplex|micro|output
devices/sound/audio/**       live     any      libvirt's number of where sound goes
# Where sound goes is the host's. Two places are those that libvirt writes for every VM: nowhere, and to SPICE.
devices/audio                live     -        what libvirt writes for every VM
devices/audio@id             live     any      libvirt's number of where sound goes
devices/audio@type           host     any      not kept: sound goes where the recipient's QEMU sends it
devices/audio@type=none|spice live    any      what libvirt writes for every VM
devices/audio/**             host     any      not kept: sound goes where the recipient's QEMU sends it

devices/input                abi      -
devices/input@type           abi      =mouse|tablet|keyboard
devices/input@type=passthrough|evdev refused any an input device of the host is passed through
devices/input@bus            abi      =ps2|usb|virtio
devices/input@bus=xen        refused  any      not a bus of QEMU
devices/input@model          abi      =virtio|virtio-transitional|virtio-non-transitional
devices/input/source/**      refused  any      an input device of the host is passed through
devices/hub                  abi      -
devices/hub@type             abi      =usb
"""
