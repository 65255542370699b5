/* A test's folder for files: the program's own with in_folder, or any number by made_dir.
 *
 *     folder_open();
 *     write_file("recipe.json", text, n);
 *     recipe_read(&r, in_folder("recipe.json"), &e);
 *     folder_close("recipe.json");
 *
 * Whatever goes wrong fails the running test. */
#ifndef TESTS_FOLDER_H
#define TESTS_FOLDER_H

#include <stddef.h>

/* A new folder below $TMPDIR (or /tmp), which removed_dir deletes with everything in it. */
char *made_dir(void);
void removed_dir(char *dir);

/* Makes the program's folder. */
void folder_open(void);
/* Deletes it; before, exactly these names (see check_files) must be in it. */
void folder_close(const char *names);
/* The path of a name in it, printed; "": its own. Good for the next 15 calls. */
const char *in_folder(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* The rest take names in that folder. */
void write_file(const char *name, const void *bytes, size_t n);
/* The bytes (free them) and their number. */
char *read_file(const char *name, size_t *n);
/* Both have the same bytes, more than a few. */
void check_same_file(const char *a, const char *b);
/* What is in a folder ("": the program's own): the names in order, a space between. */
void check_files(const char *folder, const char *names);

#endif
