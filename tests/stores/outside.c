/* An open internet of one server, for a program that is started with this before its libc.

   A connection to AB_OUTSIDE_ADDRESS leads to port AB_OUTSIDE_PORT of this machine. `outside.test`
   has that address; so has `turning.test` when it is first asked for, and 127.0.0.1 after that. */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dlfcn.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

int connect(int socket, const struct sockaddr *address, socklen_t length) {
    int (*real)(int, const struct sockaddr *, socklen_t) = dlsym(RTLD_NEXT, "connect");
    const char *outside = getenv("AB_OUTSIDE_ADDRESS");
    if (outside != NULL && address->sa_family == AF_INET) {
        struct sockaddr_in here = *(const struct sockaddr_in *)address;
        if (here.sin_addr.s_addr == inet_addr(outside)) {
            here.sin_addr.s_addr = inet_addr("127.0.0.1");
            here.sin_port = htons(atoi(getenv("AB_OUTSIDE_PORT")));
            return real(socket, (const struct sockaddr *)&here, sizeof here);
        }
    }
    return real(socket, address, length);
}

int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints,
                struct addrinfo **found) {
    static int turned = 0;
    int (*real)(const char *, const char *, const struct addrinfo *, struct addrinfo **) =
        dlsym(RTLD_NEXT, "getaddrinfo");
    if (node != NULL && strcmp(node, "outside.test") == 0)
        node = getenv("AB_OUTSIDE_ADDRESS");
    else if (node != NULL && strcmp(node, "turning.test") == 0)
        node = turned++ ? "127.0.0.1" : getenv("AB_OUTSIDE_ADDRESS");
    return real(node, service, hints, found);
}
