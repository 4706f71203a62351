/* Looks a name up as programs do, by the C library it is linked with, and connects to what was found.
 *
 *   lookup any|ipv4|ipv6 PORT ROUNDS NAME     PORT 0: connects to nothing
 *
 * Each round ends with `round MICROSECONDS`, the time of the look-up alone; before it are lines `address ADDRESS`, or
 * `error CODE TEXT`, and `connect ADDRESS ERRNO` (0: it took) for each address until one takes. */
#define _GNU_SOURCE
#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const char *name_of(int code)
{
    switch (code) {
    case EAI_AGAIN: return "EAI_AGAIN";
    case EAI_FAIL: return "EAI_FAIL";
    case EAI_NONAME: return "EAI_NONAME";
    case EAI_SYSTEM: return "EAI_SYSTEM";
#ifdef EAI_NODATA
    case EAI_NODATA: return "EAI_NODATA";
#endif
    default: return "other";
    }
}

static int connect_to(const struct addrinfo *to)
{
    struct timeval limit = { .tv_sec = 2 };
    int error = 0;
    int s = socket(to->ai_family, SOCK_STREAM, 0);
    if (s < 0)
        return errno;
    setsockopt(s, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    if (connect(s, to->ai_addr, to->ai_addrlen) != 0)
        error = errno == EINPROGRESS ? ETIMEDOUT : errno;
    close(s);
    return error;
}

static void look_up(const char *name, int family, const char *port)
{
    struct addrinfo hints = { .ai_family = family, .ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV };
    struct addrinfo *found = NULL, *a;
    struct timespec from, to;
    char text[NI_MAXHOST];
    int connects = strcmp(port, "0") != 0, connected = 0, error;

    clock_gettime(CLOCK_MONOTONIC, &from);
    int code = getaddrinfo(name, port, &hints, &found);
    clock_gettime(CLOCK_MONOTONIC, &to);
    if (code != 0) {
        printf("error %s %s\n", name_of(code), gai_strerror(code));
    } else {
        /* First of all, as nothing may pass between the answer and the packet. */
        for (a = found; a != NULL && connects && !connected; a = a->ai_next) {
            error = connect_to(a);
            connected = error == 0;
            getnameinfo(a->ai_addr, a->ai_addrlen, text, sizeof text, NULL, 0, NI_NUMERICHOST);
            printf("connect %s %d\n", text, error);
        }
        for (a = found; a != NULL; a = a->ai_next) {
            getnameinfo(a->ai_addr, a->ai_addrlen, text, sizeof text, NULL, 0, NI_NUMERICHOST);
            printf("address %s\n", text);
        }
        freeaddrinfo(found);
    }
    printf("round %lld\n", (to.tv_sec - from.tv_sec) * 1000000LL + (to.tv_nsec - from.tv_nsec) / 1000);
}

int main(int count, char **words)
{
    if (count != 5)
        return 2;
    int family = strcmp(words[1], "ipv4") == 0 ? AF_INET : strcmp(words[1], "ipv6") == 0 ? AF_INET6 : AF_UNSPEC;
    for (int rounds = atoi(words[3]); rounds > 0; rounds--)
        look_up(words[4], family, words[2]);
    return 0;
}
