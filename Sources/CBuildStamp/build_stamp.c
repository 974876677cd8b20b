#define _GNU_SOURCE
#include "CBuildStamp.h"

#include <elf.h>
#include <link.h>
#include <string.h>

// A section of its own, so that `objcopy --update-section` can fill it without a build (ADR 87); volatile, so that
// the compiler does not take it for empty. The last byte stays zero.
__attribute__((used, section(".twill.commit"))) static const volatile char commit[64] = {0};

const char *twill_build_commit(void) { return (const char *)commit; }

struct identifier {
    unsigned char *bytes;
    size_t capacity, length;
};

// The first object that is told of is the program itself.
static int find(struct dl_phdr_info *object, size_t size, void *context) {
    (void)size;
    struct identifier *found = context;
    for (int i = 0; i < object->dlpi_phnum; i++) {
        const ElfW(Phdr) *segment = &object->dlpi_phdr[i];
        if (segment->p_type != PT_NOTE) continue;
        const char *note = (const char *)object->dlpi_addr + segment->p_vaddr;
        const char *end = note + segment->p_memsz;
        while ((size_t)(end - note) >= sizeof(ElfW(Nhdr))) {
            const ElfW(Nhdr) *header = (const void *)note;
            const size_t name = (header->n_namesz + 3UL) & ~3UL, length = (header->n_descsz + 3UL) & ~3UL;
            const char *content = note + sizeof *header + name;
            if ((size_t)(end - note) - sizeof *header < name + length) break;
            if (header->n_type == NT_GNU_BUILD_ID && header->n_namesz == sizeof "GNU"
                && memcmp(note + sizeof *header, "GNU", sizeof "GNU") == 0 && header->n_descsz <= found->capacity) {
                memcpy(found->bytes, content, header->n_descsz);
                found->length = header->n_descsz;
                return 1;
            }
            note = content + length;
        }
    }
    return 1;
}

size_t twill_build_identifier(unsigned char *bytes, size_t capacity) {
    struct identifier found = {bytes, capacity, 0};
    dl_iterate_phdr(find, &found);
    return found.length;
}
