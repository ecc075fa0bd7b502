/*
 * A wire with a delay: two TAP devices in two network namespaces, each frame handed over after a fixed time, in order.
 *
 * Stands in for netem on kernels without it.  It shapes nothing and drops nothing on purpose: rate belongs to tbf on the two devices.
 * Frames cross with their virtio-net header, so segmentation offload survives and one read may carry 64 KiB.
 *
 * usage: delay_forwarder NS_A DEV_A NS_B DEV_B DELAY_US      (NS: path of a network namespace)
 * The devices live as long as this process does.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

enum { FRAME_MAX = 65536 + 256, QUEUE_MAX_BYTES = 256 << 20 };

struct frame {
    struct frame *next;
    int64_t due_ns;
    size_t length;
    unsigned char bytes[];
};

struct direction {
    int in, out;
    int64_t delay_ns;
    struct frame *head, **tail;
    size_t queued_bytes;
};

static void die(const char *what)
{
    fprintf(stderr, "delay_forwarder: %s: %s\n", what, strerror(errno));
    exit(1);
}

static int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static int open_tap(const char *namespace, const char *device)
{
    int handle = open(namespace, O_RDONLY | O_CLOEXEC);
    if (handle < 0 || setns(handle, CLONE_NEWNET) < 0)
        die(namespace);
    close(handle);
    int tap = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (tap < 0)
        die("/dev/net/tun");
    struct ifreq request = {.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR};
    snprintf(request.ifr_name, sizeof request.ifr_name, "%s", device);
    if (ioctl(tap, TUNSETIFF, &request) < 0)
        die(device);
    if (ioctl(tap, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6) < 0)
        die("TUNSETOFFLOAD");
    return tap;
}

/* Read what is there; false when the device has no more for now. */
static int take(struct direction *d)
{
    static _Thread_local unsigned char buffer[FRAME_MAX];
    ssize_t n = read(d->in, buffer, sizeof buffer);
    if (n < 0) {
        if (errno == EAGAIN || errno == EINTR || errno == EIO) /* EIO: the device is down for now */
            return 0;
        die("read");
    }
    if (d->queued_bytes > QUEUE_MAX_BYTES)
        return 1; /* no sane link holds this much: drop as a router would */
    struct frame *f = malloc(sizeof *f + (size_t)n);
    if (!f)
        die("malloc");
    f->next = NULL;
    f->due_ns = now_ns() + d->delay_ns;
    f->length = (size_t)n;
    memcpy(f->bytes, buffer, (size_t)n);
    *d->tail = f;
    d->tail = &f->next;
    d->queued_bytes += f->length;
    return 1;
}

static void give(struct direction *d)
{
    int64_t now = now_ns();
    while (d->head && d->head->due_ns <= now) {
        struct frame *f = d->head;
        /* A frame that the kernel refuses (device down, odd length) is lost, as on a wire. */
        if (write(d->out, f->bytes, f->length) < 0 && errno == EBADFD)
            die("write");
        d->head = f->next;
        if (!d->head)
            d->tail = &d->head;
        d->queued_bytes -= f->length;
        free(f);
    }
}

static void *carry(void *argument)
{
    struct direction *d = argument;
    d->tail = &d->head;
    for (;;) {
        struct timespec wait, *bound = NULL;
        if (d->head) {
            int64_t left = d->head->due_ns - now_ns();
            if (left < 0)
                left = 0;
            wait.tv_sec = left / 1000000000;
            wait.tv_nsec = left % 1000000000;
            bound = &wait;
        }
        struct pollfd p = {.fd = d->in, .events = POLLIN};
        int ready = ppoll(&p, 1, bound, NULL);
        if (ready < 0 && errno != EINTR)
            die("ppoll");
        if (ready > 0 && (p.revents & POLLIN))
            for (int i = 0; i < 64 && take(d); i++)
                ;
        else if (ready > 0)
            usleep(1000); /* the device is down: poll reports an error at once */
        give(d);
    }
    return NULL;
}

int main(int argc, char **argv)
{
    if (argc != 6) {
        fprintf(stderr, "usage: delay_forwarder NS_A DEV_A NS_B DEV_B DELAY_US\n");
        return 2;
    }
    int64_t delay_ns = strtoll(argv[5], NULL, 10) * 1000;
    int a = open_tap(argv[1], argv[2]);
    int b = open_tap(argv[3], argv[4]);
    struct direction there = {.in = a, .out = b, .delay_ns = delay_ns};
    struct direction back = {.in = b, .out = a, .delay_ns = delay_ns};
    pthread_t thread;
    if (pthread_create(&thread, NULL, carry, &there) != 0)
        die("pthread_create");
    carry(&back);
    return 0;
}
