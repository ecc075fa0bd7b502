#!/bin/sh
# libvirt's hook for QEMU domains: refuses to start a VM that this host has given away to another one, and writes down
# why a guest ended that is arriving here.
#
# vmport's node agent leaves a file per VM in the directory below before another host may run the VM.  The file outlives
# the agent, libvirtd and a reboot, so neither autostart nor `virsh start` nor a restored definition makes a second copy.
# Of an arriving guest there is a file UUID.ended: an agent that was away must know whether libvirtd ended the guest, or
# whether it may have run.
#
# libvirtd calls it as NAME OPERATION SUB-OPERATION EXTRA, with the domain's XML on standard input.  An exit code other
# than 0 refuses; standard error becomes part of libvirt's error.  Nothing is printed on standard output: libvirt would
# take it for another XML.  It needs a POSIX shell and starts no other program: a hook that cannot run stops every VM.
#
# `vmport-node install-hook` installs it, with the node's own directory in the next line.
given_away=/var/lib/vmport/node/given-away

# Never at "reconnect": libvirtd would kill a VM that runs.  "migrate" and "restore" are followed by "prepare".
case "$2" in
prepare | start | release) ;;
*) exit 0 ;;
esac

uuid=
while IFS= read -r line; do
    case "$line" in
    *"<uuid>"*"</uuid>"*)
        uuid=${line#*"<uuid>"}
        uuid=${uuid%%"</uuid>"*}
        break
        ;;
    esac
done
case "$uuid" in
"" | *[!0-9a-f-]*)
    [ "$2" = release ] && exit 0
    echo "vmport: no UUID in the XML of VM $1, so whether it was given away cannot be known" >&2
    exit 1
    ;;
esac

file=$given_away/$uuid
if [ "$2" = release ]; then
    [ -e "$file.ended" ] && echo "$4" >>"$file.ended"
    exit 0
fi
[ -e "$file" ] || exit 0
# It comes back by a port: the agent says so, and the port's own rules hold.
[ -e "$file.arriving" ] && exit 0

port_id=unknown epoch=unknown recipient=unknown recipient_node=unknown since=unknown
if [ -r "$file" ]; then
    while IFS='=' read -r key value; do
        case "$key" in
        port_id) port_id=$value ;;
        epoch) epoch=$value ;;
        recipient) recipient=$value ;;
        recipient_node) recipient_node=$value ;;
        since) since=$value ;;
        esac
    done <"$file"
fi
echo "vmport: VM $1 ($uuid) is not started: port $port_id gave it away to provider $recipient, node $recipient_node," \
    "with epoch $epoch, at $since. A copy here would be a second one. Ask the broker who owns the VM; only if it is" \
    "this host again, remove $file and start it." >&2
exit 1
