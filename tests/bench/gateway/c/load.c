/*
 * Asks an HTTP/1.1 server for chat completions, and checks each answer, in one thread that costs next to nothing.
 *
 *   load PORT HEAD_FILE BODY_FILE TEXT_FILE CONNECTIONS REQUESTS RATE STREAM UNIQUE [RECEIPTS_FILE]
 *
 * HEAD_FILE: the request's head without its end, each line ending in CRLF; Content-Length is added. BODY_FILE: the body,
 * with a marker "#" and 16 digits. TEXT_FILE: what the answer must say, over all of its "content", with a marker too.
 * UNIQUE 1: each request gets a marker of its own, which its answer must have; 0: all send the same bytes. RATE 0: a closed loop; else so many requests a second begin whether or not earlier ones have ended,
 * and their time runs from when they were due. STREAM 1: the answer must end with [DONE].
 *
 * Ends with one line of JSON; times in milliseconds. An answer is right if its status is 200, it is whole and it says the
 * text, with the request's marker. The first wrong one is printed to stderr.
 *
 * RECEIPTS_FILE: the X-Receipt-Id of each right answer is written there, a line each, as soon as the answer is whole. The
 * server may then be killed: the load ends, as at SIGTERM, when it takes no connection any more.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
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

enum { MARKER = 17, READ_SIZE = 256 * 1024, MOST_READY = 256 };

struct conn {
    int fd, busy;
    char *out;
    size_t sent, out_length;
    char *raw; /* as received */
    size_t raw_held, raw_room, raw_read;
    char *body; /* decoded */
    size_t body_held, body_room, scanned;
    int head_done, status, chunked, closes;
    long long left; /* of the body or of the chunk, -1: unknown */
    int whole;
    long long began_ns, first_ns;
    char marker[MARKER + 1];
    char receipt[64];
};

static struct {
    int port, connections, stream, unique;
    long requests;
    double rate;
    char *head, *body, *text;
    size_t head_length, body_length, text_length, marker_at, text_marker_at;
} ask;

static struct conn *conns;
static double *latencies, *firsts;
static long begun, ended, right_count, wrong, failed, first_count;
static int poll_fd, timer_fd;
static long long start_ns;
static unsigned long long marker_base;
static FILE *receipts;
static volatile sig_atomic_t over;

static long long now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void die(const char *what) {
    perror(what);
    exit(1);
}

static char *read_file(const char *path, size_t *length) {
    FILE *file = fopen(path, "rb");
    if (!file) {
        die(path);
    }
    fseek(file, 0, SEEK_END);
    *length = (size_t)ftell(file);
    rewind(file);
    char *bytes = malloc(*length + 1);
    if (fread(bytes, 1, *length, file) != *length) {
        die(path);
    }
    bytes[*length] = 0;
    fclose(file);
    return bytes;
}

static void open_conn(struct conn *conn) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((unsigned short)ask.port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    conn->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(conn->fd, (struct sockaddr *)&address, sizeof address) < 0) {
        if (!receipts) {
            die("load: connect");
        }
        over = 1;
        return;
    }
    int on = 1;
    setsockopt(conn->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    fcntl(conn->fd, F_SETFL, O_NONBLOCK);
    struct epoll_event interest = {.events = EPOLLIN, .data.ptr = conn};
    epoll_ctl(poll_fd, EPOLL_CTL_ADD, conn->fd, &interest);
    conn->raw_held = conn->raw_read = 0;
}

static int flush_out(struct conn *conn) {
    while (conn->sent < conn->out_length) {
        ssize_t sent = send(conn->fd, conn->out + conn->sent, conn->out_length - conn->sent, MSG_NOSIGNAL);
        if (sent < 0 && errno == EAGAIN) {
            struct epoll_event interest = {.events = EPOLLIN | EPOLLOUT, .data.ptr = conn};
            epoll_ctl(poll_fd, EPOLL_CTL_MOD, conn->fd, &interest);
            return 0;
        }
        if (sent <= 0) {
            return -1;
        }
        conn->sent += (size_t)sent;
    }
    return 0;
}

static void end_request(struct conn *conn, int is_error);

static void begin_request(struct conn *conn, long long due_ns) {
    begun++;
    conn->busy = 1;
    conn->began_ns = due_ns;
    conn->first_ns = 0;
    conn->body_held = conn->scanned = 0;
    conn->head_done = conn->status = conn->chunked = conn->closes = conn->whole = 0;
    conn->receipt[0] = 0;
    conn->left = -1;
    conn->sent = 0;
    char *marker = conn->out + ask.head_length + ask.marker_at;
    if (ask.unique) {
        char digits[32];
        snprintf(digits, sizeof digits, "#%016llu", (marker_base + (unsigned long long)begun) % 10000000000000000ULL);
        memcpy(marker, digits, MARKER);
    }
    memcpy(conn->marker, marker, MARKER);
    if (flush_out(conn) < 0) {
        end_request(conn, 1);
    }
}

static void append(struct conn *conn, const char *bytes, size_t length) {
    if (conn->body_held + length + 1 > conn->body_room) {
        conn->body_room = 2 * (conn->body_held + length + 1);
        conn->body = realloc(conn->body, conn->body_room);
    }
    memcpy(conn->body + conn->body_held, bytes, length);
    conn->body_held += length;
    conn->body[conn->body_held] = 0;
}

/* The first text of the answer: a `content` that is not empty. Events with a role alone don't count. */
static void look_for_text(struct conn *conn) {
    while (!conn->first_ns) {
        char *at = strstr(conn->body + conn->scanned, "\"content\":");
        if (!at) {
            conn->scanned = conn->body_held > 16 ? conn->body_held - 16 : 0;
            return;
        }
        char *text = at + 10;
        while (*text == ' ') {
            text++;
        }
        if (!text[0] || (text[0] == '"' && !text[1])) {
            conn->scanned = (size_t)(at - conn->body);
            return;
        }
        if (text[0] == '"' && text[1] != '"') {
            conn->first_ns = now_ns();
        }
        conn->scanned = (size_t)(text - conn->body);
    }
}

static int read_head(struct conn *conn) {
    conn->raw[conn->raw_held] = 0;
    char *start = conn->raw + conn->raw_read, *end = strstr(start, "\r\n\r\n");
    if (!end) {
        return 0;
    }
    *end = 0;
    conn->status = atoi(start + 9);
    for (char *line = strstr(start, "\r\n"); line; line = strstr(line + 2, "\r\n")) {
        if (!strncasecmp(line + 2, "content-length:", 15)) {
            conn->left = atoll(line + 17);
        } else if (!strncasecmp(line + 2, "transfer-encoding:", 18)) {
            conn->chunked = strcasestr(line + 20, "chunked") != NULL;
        } else if (!strncasecmp(line + 2, "connection:", 11)) {
            conn->closes = !strncasecmp(line + 14, "close", 5);
        } else if (!strncasecmp(line + 2, "x-receipt-id:", 13)) {
            sscanf(line + 15, " %63[!-~]", conn->receipt);
        }
    }
    conn->raw_read += (size_t)(end - start) + 4;
    conn->head_done = 1;
    if (conn->chunked) {
        conn->left = 0;
    }
    return 1;
}

/* Moves what has arrived of the body from raw to body. 1: it is whole. */
static int read_body(struct conn *conn) {
    for (;;) {
        size_t there = conn->raw_held - conn->raw_read;
        if (!conn->chunked || conn->left > 0) {
            size_t take = conn->left >= 0 && (size_t)conn->left < there ? (size_t)conn->left : there;
            append(conn, conn->raw + conn->raw_read, take);
            conn->raw_read += take;
            if (conn->left >= 0) {
                conn->left -= (long long)take;
            }
            if (!conn->chunked) {
                return conn->left == 0;
            }
            if (conn->left > 0) {
                return 0;
            }
            conn->left = -2; /* the CRLF after a chunk */
        } else if (conn->left == -2) {
            if (there < 2) {
                return 0;
            }
            conn->raw_read += 2;
            conn->left = 0;
        } else {
            conn->raw[conn->raw_held] = 0;
            char *line = conn->raw + conn->raw_read, *end = strstr(line, "\r\n");
            if (!end) {
                return 0;
            }
            long long length = strtoll(line, NULL, 16);
            if (length == 0) {
                if (conn->raw_held - conn->raw_read < (size_t)(end - line) + 4) {
                    return 0;
                }
                conn->raw_read += (size_t)(end - line) + 4;
                return 1;
            }
            conn->raw_read += (size_t)(end - line) + 2;
            conn->left = length;
        }
    }
}

/* Whether the texts of all "content", one after the other, are the expected text with the request's marker. */
static int says_the_text(const struct conn *conn) {
    size_t said = 0;
    memcpy(ask.text + ask.text_marker_at, conn->marker, MARKER);
    for (const char *at = strstr(conn->body, "\"content\":"); at; at = strstr(at + 1, "\"content\":")) {
        const char *text = at + 10;
        while (*text == ' ') {
            text++;
        }
        if (*text++ != '"') {
            continue; /* null */
        }
        size_t length = strcspn(text, "\""); /* the texts have nothing that JSON escapes */
        if (said + length > ask.text_length || memcmp(ask.text + said, text, length) != 0) {
            return 0;
        }
        said += length;
    }
    return said == ask.text_length;
}

static void start_next(struct conn *conn) {
    if (ask.rate == 0 && begun < ask.requests && !over) {
        begin_request(conn, now_ns());
    }
}

static void reopen(struct conn *conn) {
    close(conn->fd);
    open_conn(conn);
}

static void end_request(struct conn *conn, int is_error) {
    long long now = now_ns();
    int right = !is_error && conn->status == 200 && conn->whole && conn->body_held && says_the_text(conn) &&
                (!ask.stream || strstr(conn->body, "[DONE]"));
    if (right) {
        if (receipts) {
            fprintf(receipts, "%s\n", conn->receipt);
        }
        latencies[right_count++] = (double)(now - conn->began_ns) / 1e6;
        if (conn->first_ns) {
            firsts[first_count++] = (double)(conn->first_ns - conn->began_ns) / 1e6;
        }
    } else {
        if (wrong + failed == 0) {
            fprintf(stderr, "load: wrong answer, status %d, %zu bytes: %.600s\n", conn->status, conn->body_held,
                    conn->body_held ? conn->body : "");
        }
        *(is_error ? &failed : &wrong) += 1;
    }
    ended++;
    conn->busy = 0;
    if (is_error || conn->closes) {
        reopen(conn);
    } else if (conn->raw_read == conn->raw_held) {
        conn->raw_read = conn->raw_held = 0;
    }
    start_next(conn);
}

static void on_ready(struct conn *conn, unsigned events) {
    if (events & EPOLLOUT) {
        struct epoll_event interest = {.events = EPOLLIN, .data.ptr = conn};
        epoll_ctl(poll_fd, EPOLL_CTL_MOD, conn->fd, &interest);
        if (flush_out(conn) < 0) {
            end_request(conn, 1);
            return;
        }
    }
    if (!(events & (EPOLLIN | EPOLLHUP | EPOLLERR))) {
        return;
    }
    if (conn->raw_room - conn->raw_held < READ_SIZE) {
        conn->raw_room = conn->raw_room ? 2 * conn->raw_room : 2 * READ_SIZE;
        conn->raw = realloc(conn->raw, conn->raw_room + 1);
    }
    ssize_t got = recv(conn->fd, conn->raw + conn->raw_held, conn->raw_room - conn->raw_held, 0);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) {
        return;
    }
    if (got <= 0) {
        if (!conn->busy) {
            reopen(conn); /* an idle connection that the server has closed */
            return;
        }
        conn->whole = conn->head_done && !conn->chunked && conn->left == -1;
        conn->closes = 1;
        end_request(conn, !conn->whole);
        return;
    }
    conn->raw_held += (size_t)got;
    if (!conn->head_done && !read_head(conn)) {
        return;
    }
    int whole = read_body(conn);
    if (conn->body_held) {
        look_for_text(conn);
    }
    if (conn->raw_read == conn->raw_held) {
        conn->raw_read = conn->raw_held = 0;
    }
    if (whole) {
        conn->whole = 1;
        end_request(conn, 0);
    }
}

/* Begins what is due in an open loop as far as connections are free; sets the timer for the next. */
static void begin_due(void) {
    long long gap_ns = (long long)(1e9 / ask.rate);
    int next = 0;
    while (begun < ask.requests) {
        long long due = start_ns + begun * gap_ns;
        if (due > now_ns()) {
            struct itimerspec at = {.it_value = {due / 1000000000LL, due % 1000000000LL}};
            timerfd_settime(timer_fd, TFD_TIMER_ABSTIME, &at, NULL);
            return;
        }
        while (next < ask.connections && conns[next].busy) {
            next++;
        }
        if (next == ask.connections) {
            return; /* the next end begins it, late by its own fault */
        }
        begin_request(&conns[next], due);
    }
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double quantile(double *sorted, long count, double share) {
    return count ? sorted[(long)(share * (double)(count - 1) + 0.5)] : 0;
}

static size_t find_marker(const char *bytes, const char *what) {
    for (const char *at = strchr(bytes, '#'); at; at = strchr(at + 1, '#')) {
        if (strspn(at + 1, "0123456789") == MARKER - 1) {
            return (size_t)(at - bytes);
        }
    }
    fprintf(stderr, "load: the %s has no marker\n", what);
    exit(2);
}

static void end_it(int number) {
    (void)number;
    over = 1;
}

static void prepare(void) {
    size_t length;
    char *head = ask.head;
    ask.marker_at = find_marker(ask.body, "body");
    ask.text_marker_at = find_marker(ask.text, "text");
    length = ask.head_length + 64;
    ask.head = malloc(length);
    ask.head_length = (size_t)snprintf(ask.head, length, "%scontent-length: %zu\r\n\r\n", head, ask.body_length);
    conns = calloc((size_t)ask.connections, sizeof *conns);
    latencies = calloc((size_t)ask.requests, sizeof *latencies);
    firsts = calloc((size_t)ask.requests, sizeof *firsts);
    for (int i = 0; i < ask.connections; i++) {
        conns[i].out_length = ask.head_length + ask.body_length;
        conns[i].out = malloc(conns[i].out_length);
        memcpy(conns[i].out, ask.head, ask.head_length);
        memcpy(conns[i].out + ask.head_length, ask.body, ask.body_length);
        open_conn(&conns[i]);
    }
}

int main(int argc, char **argv) {
    if (argc != 10 && argc != 11) {
        fprintf(stderr, "usage: load PORT HEAD_FILE BODY_FILE TEXT_FILE CONNECTIONS REQUESTS RATE STREAM UNIQUE [RECEIPTS_FILE]\n");
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    signal(SIGTERM, end_it);
    ask.port = atoi(argv[1]);
    ask.head = read_file(argv[2], &ask.head_length);
    ask.body = read_file(argv[3], &ask.body_length);
    ask.text = read_file(argv[4], &ask.text_length);
    ask.connections = atoi(argv[5]);
    ask.requests = atol(argv[6]);
    ask.rate = atof(argv[7]);
    ask.stream = atoi(argv[8]);
    ask.unique = atoi(argv[9]);
    if (argc == 11) {
        receipts = fopen(argv[10], "w");
        if (!receipts) {
            die(argv[10]);
        }
        setvbuf(receipts, NULL, _IOLBF, 0);
    }
    marker_base = (unsigned long long)time(NULL) * 1000003ULL * 1000ULL + (unsigned long long)getpid() * 10000000ULL;
    poll_fd = epoll_create1(0);
    timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    struct epoll_event interest = {.events = EPOLLIN, .data.ptr = NULL};
    epoll_ctl(poll_fd, EPOLL_CTL_ADD, timer_fd, &interest);
    prepare();
    start_ns = now_ns();
    for (int i = 0; ask.rate == 0 && i < ask.connections && begun < ask.requests; i++) {
        begin_request(&conns[i], now_ns());
    }
    while (ended < ask.requests && !over) {
        struct epoll_event ready[MOST_READY];
        if (ask.rate > 0) {
            begin_due();
        }
        int count = epoll_wait(poll_fd, ready, MOST_READY, 60000);
        if (count < 0 && errno != EINTR) {
            die("load: epoll_wait");
        }
        if (count == 0) {
            fprintf(stderr, "load: nothing in 60 s, %ld of %ld ended\n", ended, ask.requests);
            return 1;
        }
        for (int i = 0; i < count; i++) {
            if (ready[i].data.ptr) {
                on_ready(ready[i].data.ptr, ready[i].events);
            } else {
                unsigned long long expired;
                if (read(timer_fd, &expired, sizeof expired) < 0 && errno != EAGAIN) {
                    die("load: timer");
                }
            }
        }
    }
    double seconds = (double)(now_ns() - start_ns) / 1e9;
    qsort(latencies, (size_t)right_count, sizeof *latencies, by_value);
    qsort(firsts, (size_t)first_count, sizeof *firsts, by_value);
    printf("{\"right\": %ld, \"wrong\": %ld, \"failed\": %ld, \"seconds\": %.4f, \"rps\": %.1f, \"p50_ms\": %.3f, \"p99_ms\": %.3f, "
           "\"ttfc_p50_ms\": %.3f, \"ttfc_p99_ms\": %.3f}\n",
           right_count, wrong, failed, seconds, (double)right_count / seconds, quantile(latencies, right_count, 0.5),
           quantile(latencies, right_count, 0.99), quantile(firsts, first_count, 0.5), quantile(firsts, first_count, 0.99));
    return 0;
}
