/* The input as a .pth file; and as the pickle of one, in a container with right checksums and two
 * storages, so that mutations reach the pickle machine. */
#include "tests/fuzz/read_all.h"
#include "tests/lib/zip_write.h"

static void read_pickle(const uint8_t *data, size_t size)
{
    static const char zeros[96];
    struct zip_out z;
    zip_out_init(&z);
    zip_out_add(&z, "a/data.pkl", data, size, false);
    zip_out_add(&z, "a/data/0", zeros, sizeof zeros, false);
    zip_out_add(&z, "a/data/1", zeros, 24, false);
    zip_out_end(&z);
    read_all(z.file.data, z.file.len);
    zip_out_fini(&z);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    read_all(data, size);
    if (size && size < 1u << 20)
        read_pickle(data, size);
    return 0;
}
