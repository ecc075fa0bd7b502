/*
 * Long connections for a client that watches how they fare (deploy/labkit/connections.py): TCP port 7071.
 *
 * The first line says what a connection is for:
 *   GET /N ...   HTTP/1.1 with keep-alive: each answer's body is N, padded to a fixed size
 *   echo         every further line comes back
 *   download N   numbers 0, 1, 2 ... as 64 bits, big endian, N bytes a second, until the client closes
 *   upload       the client sends such numbers; each time 16 KiB have come and were right, their sum comes back as a line
 * A wrong line or number ends the connection: the client then sees that it was lost.
 */
#define _GNU_SOURCE
#include "guestd.h"

#include <endian.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { CONNECTION_PORT = 7071, LINE_BYTES = 1024, BODY_BYTES = 2048, PIECE_BYTES = 16384, STACK_BYTES = 128 << 10 };

/* The next line without its end, or NULL when the client has closed or the line is too long. */
static char *next_line(FILE *in, char *line)
{
    if (!fgets(line, LINE_BYTES, in) || !strchr(line, '\n'))
        return NULL;
    line[strcspn(line, "\r\n")] = '\0';
    return line;
}

static bool send_all(int connection, const void *data, size_t bytes)
{
    for (size_t sent = 0; sent < bytes;) {
        ssize_t n = send(connection, (const char *)data + sent, bytes - sent, MSG_NOSIGNAL);
        if (n <= 0)
            return false;
        sent += (size_t)n;
    }
    return true;
}

static void serve_http(FILE *in, int connection, char *line)
{
    char answer[BODY_BYTES + 256];
    unsigned long number;
    do {
        if (sscanf(line, "GET /%lu ", &number) != 1)
            return;
        while (line[0] != '\0') /* the headers, up to the empty line */
            if (!next_line(in, line))
                return;
        int head = snprintf(answer, sizeof answer, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", BODY_BYTES);
        int n = snprintf(answer + head, sizeof answer - (size_t)head, "%lu\n", number);
        memset(answer + head + n, '.', (size_t)(BODY_BYTES - n));
        if (!send_all(connection, answer, (size_t)head + BODY_BYTES))
            return;
    } while (next_line(in, line));
}

static void serve_echo(FILE *in, int connection, char *line)
{
    while (next_line(in, line)) {
        strncat(line, "\n", 2);
        if (!send_all(connection, line, strlen(line)))
            return;
    }
}

static void serve_download(int connection, long bytes_s)
{
    uint64_t numbers[PIECE_BYTES / 8], next = 0, pieces = 0;
    for (int64_t start = now_ns();; pace(start, ++pieces, bytes_s / PIECE_BYTES)) {
        for (size_t i = 0; i < PIECE_BYTES / 8; i++)
            numbers[i] = htobe64(next++);
        if (!send_all(connection, numbers, sizeof numbers))
            return;
    }
}

static void serve_upload(FILE *in, int connection)
{
    uint64_t numbers[PIECE_BYTES / 8], next = 0;
    char line[32];
    while (fread(numbers, sizeof numbers, 1, in) == 1) {
        for (size_t i = 0; i < PIECE_BYTES / 8; i++)
            if (be64toh(numbers[i]) != next++)
                return;
        int n = snprintf(line, sizeof line, "%llu\n", (unsigned long long)next * 8);
        if (!send_all(connection, line, (size_t)n))
            return;
    }
}

static void *serve(void *argument)
{
    int connection = (int)(intptr_t)argument, yes = 1;
    setsockopt(connection, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    FILE *in = fdopen(connection, "r");
    char line[LINE_BYTES + 1];
    long bytes_s;
    if (in && next_line(in, line)) {
        if (strncmp(line, "GET /", 5) == 0)
            serve_http(in, connection, line);
        else if (strcmp(line, "echo") == 0)
            serve_echo(in, connection, line);
        else if (sscanf(line, "download %ld", &bytes_s) == 1 && bytes_s >= PIECE_BYTES)
            serve_download(connection, bytes_s);
        else if (strcmp(line, "upload") == 0)
            serve_upload(in, connection);
    }
    if (in)
        fclose(in);
    else
        close(connection);
    return NULL;
}

void *connection_server(void *unused)
{
    (void)unused;
    int handle = listen_on(SOCK_STREAM, CONNECTION_PORT);
    pthread_attr_t small;
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, STACK_BYTES);
    pthread_attr_setdetachstate(&small, PTHREAD_CREATE_DETACHED);
    for (;;) {
        int connection = accept4(handle, NULL, NULL, SOCK_CLOEXEC);
        pthread_t thread;
        if (connection >= 0 && pthread_create(&thread, &small, serve, (void *)(intptr_t)connection) != 0)
            close(connection);
    }
}
