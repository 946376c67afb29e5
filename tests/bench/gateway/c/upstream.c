/*
 * A model source that costs next to nothing: an HTTP/1.1 server in one thread that answers chat completions.
 *
 *   upstream PORT EVENTS GAP_US
 *
 * A request is answered at once with JSON, or, where its body has "stream": true, with EVENTS content events and a usage
 * event: all in one write, or GAP_US apart where the body names a model that ends in "paced". The text of the answer has
 * the request's marker in it ("#" and 16 digits, anywhere in the body), so that whoever asked can see that the answer is
 * to its own request. GET /requests tells how many were answered.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum { MARKER = 17, HEAD_MAX = 64 * 1024, MOST_FDS = 65536, MOST_READY = 256 };

static const char *WORDS[] = {"A", " tally", " stick", " kept", " two", " halves", " of", " one", " debt"};
enum { WORD_COUNT = sizeof WORDS / sizeof *WORDS };

struct client {
    char *in;
    size_t held, room;
    int writing_event; /* the next event of a paced stream, or -1 */
    long long due_ns;
    char marker[MARKER + 1];
    char model[128];
};

static struct client *clients[MOST_FDS];
static int events_per_stream;
static long long gap_ns;
static unsigned long long answered;
static int poll_fd, timer_fd;

static long long now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void close_client(int fd) {
    struct client *client = clients[fd];
    if (client) {
        free(client->in);
        free(client);
        clients[fd] = NULL;
    }
    close(fd);
}

static int send_all(int fd, const char *bytes, size_t length) {
    while (length > 0) {
        ssize_t sent = send(fd, bytes, length, MSG_NOSIGNAL);
        if (sent < 0 && (errno == EAGAIN || errno == EINTR)) {
            continue; /* answers are smaller than a socket's buffer; this hardly ever happens */
        }
        if (sent <= 0) {
            return -1;
        }
        bytes += sent;
        length -= (size_t)sent;
    }
    return 0;
}

static size_t event(char *out, size_t room, const struct client *client, int number) {
    const char *end = number == events_per_stream - 1 ? "\"stop\"" : "null";
    char text[64];
    if (number == 0) {
        snprintf(text, sizeof text, "%s ", client->marker);
    } else {
        snprintf(text, sizeof text, "%s", WORDS[number % WORD_COUNT]);
    }
    return (size_t)snprintf(out, room,
                            "data: {\"id\":\"chatcmpl-bench\",\"object\":\"chat.completion.chunk\",\"created\":1764000000,"
                            "\"model\":\"%s\",\"choices\":[{\"index\":0,\"delta\":{%s\"content\":\"%s\"},"
                            "\"finish_reason\":%s}]}\n\n",
                            client->model, number == 0 ? "\"role\":\"assistant\"," : "", text, end);
}

static size_t closing(char *out, size_t room, const struct client *client) {
    return (size_t)snprintf(out, room,
                            "data: {\"id\":\"chatcmpl-bench\",\"object\":\"chat.completion.chunk\",\"created\":1764000000,"
                            "\"model\":\"%s\",\"choices\":[],\"usage\":{\"prompt_tokens\":150,\"completion_tokens\":%d,"
                            "\"total_tokens\":%d}}\n\ndata: [DONE]\n\n",
                            client->model, events_per_stream, 150 + events_per_stream);
}

static int send_chunk(int fd, const char *payload, size_t length, int last) {
    char framed[HEAD_MAX];
    int head = snprintf(framed, sizeof framed, "%zx\r\n", length);
    memcpy(framed + head, payload, length);
    size_t total = (size_t)head + length;
    memcpy(framed + total, last ? "\r\n0\r\n\r\n" : "\r\n", last ? 7 : 2);
    return send_all(fd, framed, total + (last ? 7 : 2));
}

static const char STREAM_HEAD[] = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";

static int answer_stream(int fd, struct client *client, int paced) {
    static char out[HEAD_MAX - 64];
    if (send_all(fd, STREAM_HEAD, sizeof STREAM_HEAD - 1) < 0) {
        return -1;
    }
    if (paced) {
        client->writing_event = 0;
        client->due_ns = now_ns();
        return 0;
    }
    size_t length = 0;
    for (int number = 0; number < events_per_stream; number++) {
        length += event(out + length, sizeof out - length, client, number);
    }
    length += closing(out + length, sizeof out - length, client);
    answered++;
    return send_chunk(fd, out, length, 1);
}

static int answer_plain(int fd, const struct client *client) {
    char body[2048], out[4096];
    int length = snprintf(body, sizeof body,
                          "{\"id\":\"chatcmpl-bench\",\"object\":\"chat.completion\",\"created\":1764000000,\"model\":\"%s\","
                          "\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"%s A tally stick was "
                          "split in two halves, and each side kept one, so that neither could change what was owed.\"},"
                          "\"logprobs\":null,\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":150,"
                          "\"completion_tokens\":23,\"total_tokens\":173}}",
                          client->model, client->marker);
    int total = snprintf(out, sizeof out, "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s",
                         length, body);
    answered++;
    return send_all(fd, out, (size_t)total);
}

/* What the body says, read as text: it is the benchmark's own. */
static int has_flag(const char *body, const char *name) {
    const char *at = strstr(body, name);
    if (!at) {
        return 0;
    }
    at += strlen(name);
    while (*at == ' ' || *at == ':') {
        at++;
    }
    return strncmp(at, "true", 4) == 0;
}

static void read_string(const char *body, const char *name, char *out, size_t room) {
    const char *at = strstr(body, name);
    size_t length = 0;
    if (at) {
        at += strlen(name);
        while (*at == ' ' || *at == ':' || *at == '"') {
            at++;
        }
        while (at[length] && at[length] != '"' && length + 1 < room) {
            out[length] = at[length];
            length++;
        }
    }
    out[length] = 0;
}

static void read_marker(const char *body, char *out) {
    out[0] = 0;
    for (const char *at = strchr(body, '#'); at; at = strchr(at + 1, '#')) {
        if (strspn(at + 1, "0123456789") == MARKER - 1) {
            memcpy(out, at, MARKER);
            out[MARKER] = 0;
            return;
        }
    }
}

static int answer(int fd, struct client *client, const char *head, const char *body) {
    if (strncmp(head, "GET /requests", 13) == 0) {
        char text[64], out[256];
        int length = snprintf(text, sizeof text, "{\"requests\": %llu}", answered);
        int total = snprintf(out, sizeof out, "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s",
                             length, text);
        return send_all(fd, out, (size_t)total);
    }
    read_marker(body, client->marker);
    read_string(body, "\"model\"", client->model, sizeof client->model);
    size_t named = strlen(client->model);
    int paced = named >= 5 && strcmp(client->model + named - 5, "paced") == 0;
    return has_flag(body, "\"stream\"") ? answer_stream(fd, client, paced) : answer_plain(fd, client);
}

static size_t content_length(const char *head) {
    for (const char *line = strstr(head, "\r\n"); line; line = strstr(line + 2, "\r\n")) {
        if (strncasecmp(line + 2, "content-length:", 15) == 0) {
            return strtoul(line + 17, NULL, 10);
        }
    }
    return 0;
}

static int read_client(int fd, struct client *client) {
    for (;;) {
        if (client->room - client->held < HEAD_MAX) {
            client->room = client->room ? 2 * client->room : 2 * HEAD_MAX;
            client->in = realloc(client->in, client->room + 1);
        }
        ssize_t got = recv(fd, client->in + client->held, client->room - client->held, 0);
        if (got < 0 && (errno == EAGAIN || errno == EINTR)) {
            break;
        }
        if (got <= 0) {
            return -1;
        }
        client->held += (size_t)got;
        client->in[client->held] = 0;
    }
    for (;;) {
        if (client->held == 0) {
            return 0;
        }
        client->in[client->held] = 0;
        char *end = strstr(client->in, "\r\n\r\n");
        if (!end) {
            return 0;
        }
        size_t head = (size_t)(end - client->in) + 4;
        *end = 0;
        size_t whole = head + content_length(client->in);
        if (client->held < whole) {
            *end = '\r';
            return 0;
        }
        char kept = client->in[whole];
        client->in[whole] = 0;
        if (answer(fd, client, client->in, client->in + head) < 0) {
            return -1;
        }
        client->in[whole] = kept;
        memmove(client->in, client->in + whole, client->held - whole);
        client->held -= whole;
    }
}

static void accept_clients(int listener) {
    for (;;) {
        int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
        if (fd < 0) {
            return;
        }
        if (fd >= MOST_FDS) {
            close(fd);
            continue;
        }
        int on = 1;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        clients[fd] = calloc(1, sizeof **clients);
        clients[fd]->writing_event = -1;
        struct epoll_event interest = {.events = EPOLLIN, .data.fd = fd};
        epoll_ctl(poll_fd, EPOLL_CTL_ADD, fd, &interest);
    }
}

/* Sends what is due of paced streams, and sets the timer for what is next. */
static void write_due(void) {
    static char out[4096];
    long long now = now_ns(), next = 0;
    for (int fd = 0; fd < MOST_FDS; fd++) {
        struct client *client = clients[fd];
        if (!client || client->writing_event < 0) {
            continue;
        }
        int failed = 0;
        while (client->writing_event >= 0 && client->due_ns <= now && !failed) {
            size_t length = event(out, sizeof out, client, client->writing_event);
            client->writing_event++;
            client->due_ns += gap_ns;
            int last = client->writing_event == events_per_stream;
            if (last) {
                length += closing(out + length, sizeof out - length, client);
                client->writing_event = -1;
                answered++;
            }
            failed = send_chunk(fd, out, length, last) < 0;
        }
        if (failed) {
            close_client(fd);
        } else if (client->writing_event >= 0 && (next == 0 || client->due_ns < next)) {
            next = client->due_ns;
        }
    }
    if (next) {
        struct itimerspec at = {.it_value = {next / 1000000000LL, next % 1000000000LL}};
        timerfd_settime(timer_fd, TFD_TIMER_ABSTIME, &at, NULL);
    }
}

static int listen_on(int port) {
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), on = 1;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((unsigned short)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) < 0 || listen(listener, 4096) < 0) {
        perror("upstream: cannot listen");
        exit(1);
    }
    return listener;
}

int main(int argc, char **argv) {
    if (argc != 4) {
        fprintf(stderr, "usage: upstream PORT EVENTS GAP_US\n");
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    events_per_stream = atoi(argv[2]);
    gap_ns = atoll(argv[3]) * 1000;
    int listener = listen_on(atoi(argv[1]));
    poll_fd = epoll_create1(0);
    timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    struct epoll_event interest = {.events = EPOLLIN, .data.fd = listener};
    epoll_ctl(poll_fd, EPOLL_CTL_ADD, listener, &interest);
    interest.data.fd = timer_fd;
    epoll_ctl(poll_fd, EPOLL_CTL_ADD, timer_fd, &interest);
    for (;;) {
        struct epoll_event ready[MOST_READY];
        int count = epoll_wait(poll_fd, ready, MOST_READY, -1), timed = 0;
        for (int i = 0; i < count; i++) {
            int fd = ready[i].data.fd;
            if (fd == listener) {
                accept_clients(listener);
            } else if (fd == timer_fd) {
                unsigned long long expired;
                timed |= read(timer_fd, &expired, sizeof expired) > 0;
            } else if (clients[fd]) {
                if (read_client(fd, clients[fd]) < 0) {
                    close_client(fd);
                } else {
                    timed |= clients[fd]->writing_event == 0;
                }
            }
        }
        if (timed) {
            write_due();
        }
    }
}
