/* The pickle machine: a stack with marks, a memo, one handler an opcode (CPython's pickletools.py
 * describes them). Work and memory are bounded by the pickle's length: an opcode has at least one
 * byte and makes at most one value. */
#include "engine/tensor/pickle.h"

#include <inttypes.h>

#define MAX_VALUES 2000000u

struct pickle_global {
    const char *module, *name;
    enum { G_TENSOR, G_PARAMETER, G_ORDERED_DICT, G_SIZE, G_STORAGE } what;
    enum dtype dtype; /* G_STORAGE */
};

static const struct pickle_global globals[] = {
    {"torch._utils", "_rebuild_tensor_v2", G_TENSOR, 0},
    {"torch._utils", "_rebuild_parameter", G_PARAMETER, 0},
    {"collections", "OrderedDict", G_ORDERED_DICT, 0},
    {"torch", "Size", G_SIZE, 0},
    {"torch", "FloatStorage", G_STORAGE, DTYPE_F32},
    {"torch", "HalfStorage", G_STORAGE, DTYPE_F16},
    {"torch", "BFloat16Storage", G_STORAGE, DTYPE_BF16},
    {"torch", "DoubleStorage", G_STORAGE, DTYPE_F64},
    {"torch", "CharStorage", G_STORAGE, DTYPE_I8},
    {"torch", "ByteStorage", G_STORAGE, DTYPE_U8},
    {"torch", "ShortStorage", G_STORAGE, DTYPE_I16},
    {"torch", "IntStorage", G_STORAGE, DTYPE_I32},
    {"torch", "LongStorage", G_STORAGE, DTYPE_I64},
    {"torch", "BoolStorage", G_STORAGE, DTYPE_BOOL},
};

struct machine {
    const uint8_t *p; /* the pickle, [n] */
    size_t n, at;
    struct tensor_mem *mem;
    struct pickle_value **stack; /* [depth]; NULL is a mark */
    size_t depth, cap;
    struct pickle_value **memo; /* [n_memo]; NULL: not set */
    size_t n_memo;              /* allocated */
    size_t memoized;            /* what MEMOIZE counts */
    size_t n_values;
    uint8_t op;
    bool stopped;
    struct err *e;
};

static int bad(struct machine *m, const char *what)
{
    return err_set(m->e, ERR_FORMAT, "the pickle is damaged at byte %zu (opcode 0x%02x): %s", m->at,
                   m->op, what);
}

static int no_memory(struct machine *m)
{
    return err_set(m->e, ERR_NOMEM, "no memory to read a pickle of %zu bytes", m->n);
}

/* The next n bytes; NULL past the end. */
static const uint8_t *next(struct machine *m, uint64_t n)
{
    if (n > m->n - m->at)
        return NULL;
    const uint8_t *p = m->p + m->at;
    m->at += (size_t)n;
    return p;
}

/* A little-endian number of 1, 2, 4 or 8 bytes. */
static bool next_number(struct machine *m, int bytes, uint64_t *v)
{
    const uint8_t *p = next(m, (uint64_t)bytes);
    *v = 0;
    for (int i = 0; p && i < bytes; i++)
        *v |= (uint64_t)p[i] << (8 * i);
    return p != NULL;
}

static int push(struct machine *m, struct pickle_value *v)
{
    if (m->depth == m->cap) {
        size_t cap = m->cap ? 2 * m->cap : 256;
        struct pickle_value **s = realloc(m->stack, cap * sizeof *s);
        if (!s)
            return no_memory(m);
        m->stack = s;
        m->cap = cap;
    }
    m->stack[m->depth++] = v;
    return 0;
}

/* The value on top, removed; NULL if there is none or a mark. */
static struct pickle_value *pop(struct machine *m)
{
    return m->depth && m->stack[m->depth - 1] ? m->stack[--m->depth] : NULL;
}

static struct pickle_value *top(struct machine *m)
{
    return m->depth ? m->stack[m->depth - 1] : NULL;
}

/* A fresh value, pushed; NULL with the error set. */
static struct pickle_value *push_new(struct machine *m, enum pickle_type type)
{
    if (++m->n_values > MAX_VALUES) {
        bad(m, "it makes more than 2000000 values");
        return NULL;
    }
    struct pickle_value *v = tensor_mem_take(m->mem, sizeof *v, _Alignof(struct pickle_value));
    if (!v) {
        no_memory(m);
        return NULL;
    }
    *v = (struct pickle_value){.type = type};
    return push(m, v) < 0 ? NULL : v;
}

static int failed(struct machine *m)
{
    return m->e->code;
}

static int append(struct machine *m, struct pickle_value *list, struct pickle_value *const *items,
                  size_t n)
{
    if (list->list.cap - list->list.n < n) {
        size_t cap = 2 * list->list.cap + n;
        struct pickle_value **at = tensor_mem_take(m->mem, cap * sizeof *at, _Alignof(void *));
        if (!at)
            return no_memory(m);
        if (list->list.n)
            memcpy(at, list->list.at, list->list.n * sizeof *at);
        list->list.at = at;
        list->list.cap = cap;
    }
    if (n)
        memcpy(list->list.at + list->list.n, items, n * sizeof *items);
    list->list.n += n;
    return 0;
}

/* The number of values above the topmost mark; false without a mark. */
static bool above_mark(const struct machine *m, size_t *n)
{
    for (*n = 0; *n < m->depth; ++*n)
        if (!m->stack[m->depth - 1 - *n])
            return true;
    return false;
}

/* The last n values become a tuple or list. */
static int collect(struct machine *m, size_t n, bool tuple)
{
    if (n > m->depth)
        return bad(m, "the stack is empty");
    for (size_t i = 1; i <= n; i++)
        if (!m->stack[m->depth - i])
            return bad(m, "a mark is in the way");
    struct pickle_value *v = push_new(m, PICKLE_LIST);
    if (!v || append(m, v, m->stack + m->depth - 1 - n, n) < 0)
        return failed(m);
    v->tuple = tuple;
    m->depth -= n + 1;
    return push(m, v);
}

static int op_proto(struct machine *m)
{
    uint64_t v;
    if (!next_number(m, 1, &v) || v < 2 || v > 5)
        return bad(m, "its protocol is none of 2 to 5");
    return 0;
}

static int op_frame(struct machine *m)
{
    uint64_t v;
    return next_number(m, 8, &v) && v <= m->n - m->at ? 0
                                                      : bad(m, "a frame is longer than the pickle");
}

static int op_stop(struct machine *m)
{
    m->stopped = true;
    return m->depth == 1 && m->stack[0] ? 0 : bad(m, "it stops with other than one value");
}

static int op_mark(struct machine *m)
{
    return push(m, NULL);
}

static int op_pop(struct machine *m)
{
    if (!m->depth)
        return bad(m, "the stack is empty");
    m->depth--;
    return 0;
}

static int op_pop_mark(struct machine *m)
{
    size_t n;
    if (!above_mark(m, &n))
        return bad(m, "there is no mark");
    m->depth -= n + 1;
    return 0;
}

static int op_dup(struct machine *m)
{
    return top(m) ? push(m, top(m)) : bad(m, "the stack is empty");
}

static int op_none(struct machine *m)
{
    return push_new(m, PICKLE_OTHER) ? 0 : failed(m);
}

static int push_int(struct machine *m, int64_t i)
{
    struct pickle_value *v = push_new(m, PICKLE_INT);
    if (!v)
        return failed(m);
    v->i = i;
    return 0;
}

static int op_bool(struct machine *m)
{
    return push_int(m, m->op == 0x88);
}

static int op_int(struct machine *m)
{
    uint64_t v;
    if (!next_number(m, m->op == 'J' ? 4 : m->op == 'M' ? 2 : 1, &v))
        return bad(m, "it ends within a number");
    return push_int(m, m->op == 'J' ? (int32_t)(uint32_t)v : (int64_t)v);
}

/* Two's complement of a stated number of bytes. */
static int op_long(struct machine *m)
{
    uint64_t n, v = 0;
    const uint8_t *p = next_number(m, m->op == 0x8a ? 1 : 4, &n) ? next(m, n) : NULL;
    if (!p)
        return bad(m, "it ends within a number");
    if (n > 8)
        return op_none(m);
    for (uint64_t i = 0; i < 8; i++)
        v |= (uint64_t)(i < n ? p[i] : n && p[n - 1] & 0x80 ? 0xff : 0) << (8 * i);
    return push_int(m, (int64_t)v);
}

static int op_float(struct machine *m)
{
    return next(m, 8) ? op_none(m) : bad(m, "it ends within a number");
}

/* Text and bytes, by the width of their length. Python 2 wrote text as bytes ('U', 'T'). */
static int op_bytes(struct machine *m)
{
    bool is_text = strchr("XUT\x8c\x8d", m->op) != NULL;
    int width = 4;
    if (strchr("\x8cUC", m->op))
        width = 1;
    else if (strchr("\x8d\x8e\x96", m->op))
        width = 8;
    uint64_t len;
    const uint8_t *p = next_number(m, width, &len) ? next(m, len) : NULL;
    if (!p)
        return bad(m, "it ends within a string");
    struct pickle_value *v = push_new(m, is_text ? PICKLE_STR : PICKLE_OTHER);
    if (!v)
        return failed(m);
    if (is_text)
        v->str = (struct tensor_str){(const char *)p, (size_t)len};
    return 0;
}

static int op_empty(struct machine *m)
{
    enum pickle_type type = m->op == '}' ? PICKLE_DICT : PICKLE_LIST;
    struct pickle_value *v = push_new(m, m->op == 0x8f ? PICKLE_OTHER : type);
    if (!v)
        return failed(m);
    v->tuple = m->op == ')';
    return 0;
}

static int op_tuple(struct machine *m)
{
    size_t n = (size_t)(m->op - 0x84); /* TUPLE1, TUPLE2, TUPLE3 */
    if (m->op == 't' || m->op == 'l') {
        if (!above_mark(m, &n))
            return bad(m, "there is no mark");
        int rc = collect(m, n, m->op == 't');
        struct pickle_value *v = rc < 0 ? NULL : pop(m);
        if (!v)
            return rc;
        m->depth--; /* the mark */
        return push(m, v);
    }
    return collect(m, n, true);
}

/* The n values on top go into the container below them (and below a mark, if there was one). */
static int add_items(struct machine *m, size_t n, bool mark, enum pickle_type want)
{
    if (m->depth < n + mark + 1)
        return bad(m, "the stack is empty");
    struct pickle_value *v = m->stack[m->depth - n - mark - 1];
    if (!v || v->type != want || v->tuple || (want == PICKLE_DICT && n % 2))
        return bad(m, "items go into something that cannot take them");
    for (size_t i = 1; i <= n; i++)
        if (!m->stack[m->depth - i])
            return bad(m, "a mark is in the way");
    if (append(m, v, m->stack + m->depth - n, n) < 0)
        return failed(m);
    m->depth -= n + mark;
    return 0;
}

static int op_add(struct machine *m)
{
    size_t n = m->op == 's' ? 2 : 1;
    bool mark = m->op == 'e' || m->op == 'u';
    if (mark && !above_mark(m, &n))
        return bad(m, "there is no mark");
    return add_items(m, n, mark, m->op == 'e' || m->op == 'a' ? PICKLE_LIST : PICKLE_DICT);
}

static int op_dict(struct machine *m)
{
    size_t n;
    if (!above_mark(m, &n) || n % 2)
        return bad(m, "a dictionary has no mark or a key without a value");
    struct pickle_value *v = push_new(m, PICKLE_DICT);
    if (!v || append(m, v, m->stack + m->depth - 1 - n, n) < 0)
        return failed(m);
    m->depth -= n + 2;
    return push(m, v);
}

/* Sets hold no tensors: their members are dropped. */
static int op_set(struct machine *m)
{
    int rc = op_pop_mark(m);
    if (rc < 0)
        return rc;
    if (m->op == 0x91)
        return op_none(m);
    return top(m) && top(m)->type == PICKLE_OTHER
               ? 0
               : bad(m, "items go into something that is no set");
}

/* An honest pickler numbers its memo in order: an index beyond the pickle's length is a lie. */
static int op_put(struct machine *m)
{
    uint64_t i = m->memoized;
    if (m->op != 0x94 && !next_number(m, m->op == 'q' ? 1 : 4, &i))
        return bad(m, "it ends within a memo index");
    if (!top(m) || i >= m->n)
        return bad(m, "the memo has no such place or the stack is empty");
    if (i >= m->n_memo) {
        size_t n = 2 * (size_t)i + 64;
        struct pickle_value **memo = realloc(m->memo, n * sizeof *memo);
        if (!memo)
            return no_memory(m);
        memset(memo + m->n_memo, 0, (n - m->n_memo) * sizeof *memo);
        m->memo = memo;
        m->n_memo = n;
    }
    m->memoized++;
    m->memo[i] = top(m);
    return 0;
}

static int op_get(struct machine *m)
{
    uint64_t i;
    if (!next_number(m, m->op == 'h' ? 1 : 4, &i))
        return bad(m, "it ends within a memo index");
    return i < m->n_memo && m->memo[i] ? push(m, m->memo[i]) : bad(m, "the memo is empty there");
}

static bool str_is(struct tensor_str s, const char *want)
{
    return s.len == strlen(want) && !memcmp(s.s, want, s.len);
}

static int push_global(struct machine *m, struct tensor_str module, struct tensor_str name)
{
    char shown[2][TENSOR_SHOWN];
    for (size_t i = 0; i < sizeof globals / sizeof globals[0]; i++)
        if (str_is(module, globals[i].module) && str_is(name, globals[i].name)) {
            struct pickle_value *v = push_new(m, PICKLE_GLOBAL);
            if (!v)
                return failed(m);
            v->global = &globals[i];
            return 0;
        }
    return err_set(
        m->e, ERR_FORMAT, "the pickle names %s of module %s, which tensors do not need: refused",
        tensor__show(shown[0], name.s, name.len), tensor__show(shown[1], module.s, module.len));
}

static bool next_line(struct machine *m, struct tensor_str *s)
{
    const uint8_t *from = m->p + m->at, *end = memchr(from, '\n', m->n - m->at);
    if (!end)
        return false;
    *s = (struct tensor_str){(const char *)from, (size_t)(end - from)};
    m->at += s->len + 1;
    return true;
}

static int op_global(struct machine *m)
{
    struct tensor_str module, name;
    if (!next_line(m, &module) || !next_line(m, &name))
        return bad(m, "it ends within a name");
    return push_global(m, module, name);
}

static int op_stack_global(struct machine *m)
{
    struct pickle_value *name = pop(m), *module = pop(m);
    if (!name || !module || name->type != PICKLE_STR || module->type != PICKLE_STR)
        return bad(m, "a name is no string");
    return push_global(m, module->str, name->str);
}

static const struct pickle_value *item(const struct pickle_value *list, size_t i,
                                       enum pickle_type type)
{
    return i < list->list.n && list->list.at[i]->type == type ? list->list.at[i] : NULL;
}

/* ("storage", type, key, location, number of elements) */
static int op_persistent_id(struct machine *m)
{
    struct pickle_value *id = pop(m);
    if (!id || id->type != PICKLE_LIST)
        return bad(m, "a persistent id is no tuple");
    const struct pickle_value *tag = item(id, 0, PICKLE_STR), *type = item(id, 1, PICKLE_GLOBAL),
                              *key = item(id, 2, PICKLE_STR), *numel = item(id, 4, PICKLE_INT);
    if (!tag || !str_is(tag->str, "storage") || !type || type->global->what != G_STORAGE || !key ||
        !numel || numel->i < 0)
        return bad(m, "a persistent id describes no storage");
    struct pickle_value *v = push_new(m, PICKLE_STORAGE);
    if (!v)
        return failed(m);
    v->storage = (struct pickle_storage){type->global->dtype, key->str, (uint64_t)numel->i};
    return 0;
}

/* A tuple of non-negative integers into out [TENSOR_MAX_DIMS]. */
static bool read_dims(const struct pickle_value *list, uint64_t *out)
{
    for (size_t i = 0; i < list->list.n; i++) {
        const struct pickle_value *v = item(list, i, PICKLE_INT);
        if (!v || v->i < 0)
            return false;
        out[i] = (uint64_t)v->i;
    }
    return true;
}

/* (storage, offset, shape, stride, requires_grad, backward hooks ...); pushes the description. */
static int rebuild_tensor(struct machine *m, const struct pickle_value *args)
{
    const struct pickle_value *storage = item(args, 0, PICKLE_STORAGE),
                              *offset = item(args, 1, PICKLE_INT),
                              *shape = item(args, 2, PICKLE_LIST),
                              *stride = item(args, 3, PICKLE_LIST);
    if (!storage || !offset || offset->i < 0 || !shape || !stride ||
        shape->list.n != stride->list.n)
        return bad(m, "a tensor lacks a storage, an offset, or a shape and strides of one length");
    if (shape->list.n > TENSOR_MAX_DIMS)
        return bad(m, "a tensor has more than 8 dimensions");
    struct pickle_tensor *t = tensor_mem_take(m->mem, sizeof *t, _Alignof(struct pickle_tensor));
    if (!t)
        return no_memory(m);
    *t = (struct pickle_tensor){
        &storage->storage, (uint64_t)offset->i, (int)shape->list.n, {0}, {0}};
    if (!read_dims(shape, t->shape) || !read_dims(stride, t->stride))
        return bad(m, "a tensor's shape or strides hold other than integers of 0 or more");
    struct pickle_value *v = push_new(m, PICKLE_TENSOR);
    if (!v)
        return failed(m);
    v->tensor = t;
    return 0;
}

static int op_reduce(struct machine *m)
{
    struct pickle_value *args = pop(m), *f = pop(m);
    if (!args || args->type != PICKLE_LIST || !f || f->type != PICKLE_GLOBAL)
        return bad(m, "it calls something that is no global");
    const struct pickle_value *tensor = item(args, 0, PICKLE_TENSOR),
                              *dims = item(args, 0, PICKLE_LIST);
    switch (f->global->what) {
    case G_TENSOR:
        return rebuild_tensor(m, args);
    case G_PARAMETER:
        return tensor ? push(m, args->list.at[0]) : bad(m, "a parameter holds no tensor");
    case G_SIZE:
        return dims ? push(m, args->list.at[0]) : bad(m, "a size is no tuple");
    case G_ORDERED_DICT:
        /* Python 3 fills it afterwards; copying a list given here could multiply the file's size.
         */
        return args->list.n               ? bad(m, "a dictionary is made of something")
               : push_new(m, PICKLE_DICT) ? 0
                                          : failed(m);
    case G_STORAGE:
        break;
    }
    return bad(m, "it calls a storage type");
}

/* Attributes of dictionaries (_metadata) and parameters hold nothing that is wanted. */
static int op_build(struct machine *m)
{
    if (!pop(m) || !top(m) || (top(m)->type != PICKLE_DICT && top(m)->type != PICKLE_TENSOR))
        return bad(m, "attributes are set on something other than a dictionary or a parameter");
    return 0;
}

static int (*const handlers[256])(struct machine *) = {
    [0x80] = op_proto,        [0x95] = op_frame,   ['.'] = op_stop,   ['('] = op_mark,
    ['0'] = op_pop,           ['1'] = op_pop_mark, ['2'] = op_dup,    ['N'] = op_none,
    [0x88] = op_bool,         [0x89] = op_bool,    ['J'] = op_int,    ['K'] = op_int,
    ['M'] = op_int,           [0x8a] = op_long,    [0x8b] = op_long,  ['G'] = op_float,
    ['X'] = op_bytes,         [0x8c] = op_bytes,   [0x8d] = op_bytes, ['U'] = op_bytes,
    ['T'] = op_bytes,         ['B'] = op_bytes,    ['C'] = op_bytes,  [0x8e] = op_bytes,
    [0x96] = op_bytes,        [')'] = op_empty,    [']'] = op_empty,  ['}'] = op_empty,
    [0x8f] = op_empty,        [0x85] = op_tuple,   [0x86] = op_tuple, [0x87] = op_tuple,
    ['t'] = op_tuple,         ['l'] = op_tuple,    ['a'] = op_add,    ['e'] = op_add,
    ['s'] = op_add,           ['u'] = op_add,      ['d'] = op_dict,   [0x90] = op_set,
    [0x91] = op_set,          ['q'] = op_put,      ['r'] = op_put,    [0x94] = op_put,
    ['h'] = op_get,           ['j'] = op_get,      ['c'] = op_global, [0x93] = op_stack_global,
    ['Q'] = op_persistent_id, ['R'] = op_reduce,   ['b'] = op_build,
};

int pickle_load(const uint8_t *p, size_t n, struct tensor_mem *mem, struct pickle_value **root,
                struct err *e)
{
    struct err own = {0};
    struct machine m = {.p = p, .n = n, .mem = mem, .e = e ? e : &own};
    int rc = 0;
    while (rc == 0 && !m.stopped) {
        if (m.at == n)
            rc = bad(&m, "it ends without a stop");
        else if (m.op = p[m.at++], !handlers[m.op])
            rc = bad(&m, "this opcode is not needed for tensors");
        else
            rc = handlers[m.op](&m);
    }
    if (rc == 0)
        *root = m.stack[0];
    free(m.stack);
    free(m.memo);
    return rc;
}
