/* dreamstated tokenize, detokenize: bytes on stdin to ids on stdout (one line, spaces between), and
 * back. Both read in pieces: memory does not grow with the input. */
#include "daemon/cmd.h"

#include "engine/tokenizer/tokenizer.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PIECE ((size_t)1 << 20) /* bytes read at a time */

/* Prints the failure and returns the exit code of one. */
static int tell(const char *name, const struct err *e)
{
    fprintf(stderr, "dreamstated %s: %s\n", name, e->msg);
    return 1;
}

static int usage(const char *name)
{
    fprintf(stderr,
            "usage: dreamstated %s --vocab FILE | --bytes\n"
            "  --vocab FILE   rwkv_vocab_v20230424.txt, or a GGUF with a vocabulary\n"
            "  --bytes        every byte is its own id\n",
            name);
    return 2;
}

/* 0, or the exit code. */
static int open_tokenizer(int argc, char **argv, struct tokenizer **t)
{
    static const struct option options[] = {{"vocab", required_argument, NULL, 'v'},
                                            {"bytes", no_argument, NULL, 'b'},
                                            {NULL, 0, NULL, 0}};
    const char *vocab = NULL;
    bool bytes = false;
    struct err e;
    optind = 1;
    for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        if (c == 'v')
            vocab = optarg;
        else if (c == 'b')
            bytes = true;
        else
            return usage(argv[0]);
    }
    if (optind < argc)
        fprintf(stderr, "dreamstated %s: the argument '%s' is too much\n", argv[0], argv[optind]);
    else if (!vocab && !bytes)
        fprintf(stderr, "dreamstated %s: name a vocabulary with --vocab FILE\n", argv[0]);
    else if (vocab && bytes)
        fprintf(stderr, "dreamstated %s: --vocab and --bytes exclude each other\n", argv[0]);
    if (optind < argc || !vocab == !bytes)
        return usage(argv[0]);
    if (vocab)
        return tokenizer_open(vocab, t, &e) < 0 ? tell(argv[0], &e) : 0;
    *t = tokenizer_new_bytes();
    if (!*t)
        err_set(&e, ERR_NOMEM, "no memory for the tokenizer");
    return *t ? 0 : tell(argv[0], &e);
}

static int write_all(const char *p, size_t n, struct err *e)
{
    if (fwrite(p, 1, n, stdout) == n)
        return 0;
    return err_set(e, ERR_IO, "writing to standard output: %s", strerror(errno));
}

static int finish_output(struct err *e)
{
    if (fflush(stdout) == 0)
        return 0;
    return err_set(e, ERR_IO, "writing to standard output: %s", strerror(errno));
}

/* Writes v in decimal behind a space (before the first id there is none); at most 11 bytes. */
static char *put_id(char *out, uint32_t v, bool *first)
{
    char digits[10];
    int n = 0;
    do
        digits[n++] = (char)('0' + v % 10);
    while (v /= 10);
    if (!*first)
        *out++ = ' ';
    *first = false;
    while (n > 0)
        *out++ = digits[--n];
    return out;
}

struct encoding {
    const struct tokenizer *t;
    char *text;    /* [PIECE]: bytes not yet encoded */
    size_t n;      /* of them */
    uint32_t *ids; /* [PIECE] */
    char *out;     /* [11 * PIECE] */
    bool first;
};

/* Encodes what is held and keeps the bytes that more input could still encode otherwise: a token is
 * final when it begins at least as far from the end as the longest token is long. */
static int encode_piece(struct encoding *c, bool last, struct err *e)
{
    size_t count = tokenizer_encode(c->t, c->text, c->n, c->ids), done = 0, len;
    char *out = c->out;
    for (size_t i = 0; i < count; i++) {
        if (!last && c->n - done < tokenizer_longest(c->t))
            break;
        tokenizer_token(c->t, c->ids[i], &len);
        done += len;
        out = put_id(out, c->ids[i], &c->first);
    }
    memmove(c->text, c->text + done, c->n - done);
    c->n -= done;
    return write_all(c->out, (size_t)(out - c->out), e);
}

static int encode_stream(struct encoding *c, struct err *e)
{
    for (bool last = false; !last;) {
        c->n += fread(c->text + c->n, 1, PIECE - c->n, stdin);
        if (ferror(stdin))
            return err_set(e, ERR_IO, "reading standard input: %s", strerror(errno));
        last = feof(stdin);
        int rc = encode_piece(c, last, e);
        if (rc < 0)
            return rc;
    }
    int rc = write_all("\n", 1, e);
    return rc < 0 ? rc : finish_output(e);
}

int cmd_tokenize(int argc, char **argv)
{
    struct tokenizer *t = NULL;
    struct err e;
    int code = open_tokenizer(argc, argv, &t);
    if (code)
        return code;
    struct encoding c = {.t = t,
                         .text = malloc(PIECE),
                         .ids = malloc(PIECE * sizeof(uint32_t)),
                         .out = malloc(11 * PIECE),
                         .first = true};
    int rc = c.text && c.ids && c.out ? encode_stream(&c, &e) : err_set(&e, ERR_NOMEM, "no memory");
    free(c.text);
    free(c.ids);
    free(c.out);
    tokenizer_free(t);
    return rc < 0 ? tell(argv[0], &e) : 0;
}

struct decoding {
    const struct tokenizer *t;
    uint64_t id; /* the digits so far */
    bool in_id;  /* there are some */
    uint64_t at; /* bytes of input read */
};

static int finish_id(struct decoding *d, struct err *e)
{
    size_t n;
    if (!d->in_id)
        return 0;
    if (d->id >= tokenizer_vocab(d->t))
        return err_set(e, ERR_INVALID, "the id before byte %llu is too large, want less than %zu",
                       (unsigned long long)d->at, tokenizer_vocab(d->t));
    const char *p = tokenizer_token(d->t, (uint32_t)d->id, &n);
    d->in_id = false;
    d->id = 0;
    return write_all(p, n, e);
}

static int decode_byte(struct decoding *d, char c, struct err *e)
{
    if (c >= '0' && c <= '9') {
        d->in_id = true;
        if (d->id <= UINT32_MAX) /* larger ones are refused whatever follows */
            d->id = 10 * d->id + (uint64_t)(c - '0');
        d->at++;
        return 0;
    }
    if (c != ' ' && c != '\n' && c != '\t' && c != '\r')
        return err_set(e, ERR_INVALID,
                       "byte %llu of the input is 0x%02x, want decimal ids and spaces",
                       (unsigned long long)d->at, (unsigned char)c);
    int rc = finish_id(d, e);
    d->at++;
    return rc;
}

static int decode_stream(struct decoding *d, struct err *e)
{
    char piece[16384];
    size_t n;
    int rc = 0;
    while ((n = fread(piece, 1, sizeof piece, stdin)) > 0)
        for (size_t i = 0; i < n; i++)
            if ((rc = decode_byte(d, piece[i], e)) < 0)
                return rc;
    if (ferror(stdin))
        return err_set(e, ERR_IO, "reading standard input: %s", strerror(errno));
    rc = finish_id(d, e);
    return rc < 0 ? rc : finish_output(e);
}

int cmd_detokenize(int argc, char **argv)
{
    struct tokenizer *t = NULL;
    struct err e;
    int code = open_tokenizer(argc, argv, &t);
    if (code)
        return code;
    struct decoding d = {.t = t};
    int rc = decode_stream(&d, &e);
    tokenizer_free(t);
    return rc < 0 ? tell(argv[0], &e) : 0;
}
