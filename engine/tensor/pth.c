#include "engine/tensor/file.h"

int tensor__read_pth(struct tensor_file *f, struct err *e)
{
    f->kind = TENSOR_FILE_PTH;
    return err_set(e, ERR_UNSUPPORTED, ".pth files are not read yet");
}
