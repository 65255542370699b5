#include "engine/tensor/file.h"

int tensor__read_gguf(struct tensor_file *f, struct err *e)
{
    f->kind = TENSOR_FILE_GGUF;
    return err_set(e, ERR_UNSUPPORTED, "GGUF files are not read yet");
}
