/* quantize IN OUT --type TYPE: a model of any readable file as a GGUF, which llama.cpp also loads. OUT
 * appears whole or not at all, and is never IN. */
#include "daemon/base/clock.h"
#include "daemon/base/thread.h"
#include "daemon/cmd.h"
#include "daemon/model_vocab.h"
#include "engine/rwkv/gguf.h"
#include "engine/tokenizer/gguf_vocab.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

struct options {
    const char *in, *out, *vocab;
    enum dtype type;
    int threads;
};

static int usage(void)
{
    fputs("usage: dreamstated quantize IN OUT --type q8_0|q4_0|f16|bf16|f32 [--vocab FILE] "
          "[--threads N]\n"
          "  IN             .pth, .safetensors or .gguf\n"
          "  OUT            a GGUF; a file of this name is replaced\n"
          "  --vocab FILE   rwkv_vocab_v20230424.txt, for an IN that holds no vocabulary and does "
          "not lie\n"
          "                 beside one\n",
          stderr);
    return 2;
}

static bool parse_options(struct options *o, int argc, char **argv)
{
    static const struct option names[] = {{"type", required_argument, NULL, 't'},
                                          {"vocab", required_argument, NULL, 'v'},
                                          {"threads", required_argument, NULL, 'n'},
                                          {NULL, 0, NULL, 0}};
    bool typed = false, ok = true;
    char *end;
    *o = (struct options){.threads = thread_processors()};
    optind = 1;
    for (int c; ok && (c = getopt_long(argc, argv, "", names, NULL)) != -1;)
        switch (c) {
        case 't':
            ok = typed = dtype_parse(optarg, &o->type);
            break;
        case 'v':
            o->vocab = optarg;
            break;
        case 'n':
            o->threads = (int)strtol(optarg, &end, 10);
            ok = *end == 0 && o->threads >= 1 && o->threads <= 256;
            break;
        default:
            ok = false;
        }
    if (!ok || !typed || argc - optind != 2)
        return false;
    o->in = argv[optind];
    o->out = argv[optind + 1];
    return true;
}

static int refuse_same_file(const struct options *o, struct err *e)
{
    struct stat in, out;
    if (stat(o->in, &in) == 0 && stat(o->out, &out) == 0 && in.st_dev == out.st_dev &&
        in.st_ino == out.st_ino)
        return err_set(e, ERR_INVALID, "%s is the file to be read", o->out);
    return 0;
}

static size_t vocabulary_size(const struct tensor_file *f)
{
    const struct tensor *t = tensor_file_find(f, "emb.weight");
    if (!t)
        t = tensor_file_find(f, "token_embd.weight");
    return t && t->n_dims == 2 ? t->shape[0] : 0;
}

/* Without a vocabulary the file says so, and llama.cpp takes ids alone. */
static int write_gguf(const struct options *o, const struct tensor_file *f, struct pool *pool,
                      struct rwkv_gguf_sizes *sizes, struct err *e)
{
    const size_t n_vocab = vocabulary_size(f);
    const struct tensor_meta none[] = {
        {.key = "tokenizer.ggml.model", .type = TENSOR_META_STR, .str = "none"},
        {.key = "rwkv7.vocab_size", .type = TENSOR_META_U32, .u32 = (uint32_t)n_vocab}};
    const char *slash = strrchr(o->in, '/'), *base = slash ? slash + 1 : o->in;
    char name[128];
    snprintf(name, sizeof name, "%.*s", (int)strcspn(base, "."), base);
    struct rwkv_gguf g = {.type = o->type, .name = name, .meta = none, .n_meta = 2};
    struct gguf_vocab v = {0};
    struct tokenizer *t = NULL;
    int rc = model_vocab_open(o->in, o->vocab, n_vocab, &t, e);
    if (rc == 0 && t && (rc = gguf_vocab_init(&v, t, n_vocab, e)) == 0)
        g.meta = v.meta, g.n_meta = v.n_meta;
    if (rc == 0)
        rc = rwkv_gguf_write(f, o->in, o->out, &g, pool, sizes, e);
    gguf_vocab_fini(&v);
    tokenizer_free(t);
    return rc;
}

static int quantize(const struct options *o, struct rwkv_gguf_sizes *sizes, struct err *e)
{
    struct tensor_file *f = NULL;
    int rc = refuse_same_file(o, e);
    struct pool *pool = rc == 0 ? pool_new(o->threads, "quantize", 0, e) : NULL;
    if (!pool)
        return e->code;
    rc = tensor_file_open(o->in, &f, e);
    if (rc == 0) {
        rc = write_gguf(o, f, pool, sizes, e);
        tensor_file_close(f);
    }
    pool_free(pool);
    return rc;
}

int cmd_quantize(int argc, char **argv)
{
    struct options o;
    struct rwkv_gguf_sizes sizes;
    struct err e = {0};
    if (!parse_options(&o, argc, argv))
        return usage();
    uint64_t start = clock_ns();
    if (quantize(&o, &sizes, &e) < 0) {
        fprintf(stderr, "dreamstated quantize: %s: %s\n", o.in, e.msg);
        return 1;
    }
    printf("%s: %s, %zu tensors, %.1f MB of weights (%.1f MB in %s), %.1f s\n", o.out,
           dtype_name(o.type), sizes.tensors, (double)sizes.to_bytes * 1e-6,
           (double)sizes.from_bytes * 1e-6, o.in, (double)(clock_ns() - start) * 1e-9);
    return 0;
}
