/*
 * What a test asks of the guest's firmware, TPM and further disks.  guestd only passes it on: a test writes TPM commands itself, and
 * compares the answers of before and after a move.
 */
#define _GNU_SOURCE
#include "guestd.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* What follows fits into a report: as hexadecimal digits, with some words around them. */
enum { VALUE_BYTES = 1500, EFI_ATTRIBUTE_BYTES = 4, EFI_LASTING = 7 /* non-volatile, boot and run-time access */ };

static void refuse(char *answer, const char *what, int error)
{
    snprintf(answer, ANSWER_BYTES, "{\"error\":\"%s: %s\"}", what, strerror(error));
}

static ssize_t from_hex(const char *text, unsigned char *bytes, size_t size)
{
    size_t count = strlen(text) / 2;
    if (strlen(text) % 2 || count > size)
        return -1;
    for (size_t i = 0; i < count; i++)
        if (sscanf(text + 2 * i, "%2hhx", &bytes[i]) != 1)
            return -1;
    return (ssize_t)count;
}

static void answer_hex(char *answer, const unsigned char *bytes, size_t count)
{
    size_t n = (size_t)snprintf(answer, ANSWER_BYTES, "{\"hex\":\"");
    for (size_t i = 0; i < count; i++)
        n += (size_t)snprintf(answer + n, ANSWER_BYTES - n, "%02x", bytes[i]);
    snprintf(answer + n, ANSWER_BYTES - n, "\"}");
}

static void efi_path(const char *name, char *path, size_t size)
{
    snprintf(path, size, "/sys/firmware/efi/efivars/%s", name);
}

void efi_read(const char *name, char *answer)
{
    unsigned char value[EFI_ATTRIBUTE_BYTES + VALUE_BYTES];
    char path[256];
    efi_path(name, path, sizeof path);
    int handle = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = handle < 0 ? -1 : read(handle, value, sizeof value);
    int error = errno;
    if (handle >= 0)
        close(handle);
    if (n < EFI_ATTRIBUTE_BYTES)
        refuse(answer, "cannot read the variable", n < 0 ? error : EIO);
    else
        answer_hex(answer, value + EFI_ATTRIBUTE_BYTES, (size_t)n - EFI_ATTRIBUTE_BYTES);
}

void efi_write(const char *name, const char *hex, char *answer)
{
    unsigned char value[EFI_ATTRIBUTE_BYTES + VALUE_BYTES] = {EFI_LASTING};
    ssize_t size = from_hex(hex, value + EFI_ATTRIBUTE_BYTES, VALUE_BYTES);
    if (size < 0) {
        refuse(answer, "efi-write NAME HEX", EINVAL);
        return;
    }
    char path[256];
    efi_path(name, path, sizeof path);
    size += EFI_ATTRIBUTE_BYTES;
    int handle = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    bool written = handle >= 0 && write(handle, value, (size_t)size) == size;
    int error = errno;
    if (handle >= 0)
        close(handle);
    if (written)
        snprintf(answer, ANSWER_BYTES, "{\"ok\":true}");
    else
        refuse(answer, "cannot write the variable", error);
}

void tpm_command(const char *hex, char *answer)
{
    unsigned char bytes[VALUE_BYTES];
    ssize_t size = from_hex(hex, bytes, sizeof bytes);
    if (size < 0) {
        refuse(answer, "tpm HEX", EINVAL);
        return;
    }
    int handle = open("/dev/tpm0", O_RDWR | O_CLOEXEC);
    ssize_t n = handle < 0 || write(handle, bytes, (size_t)size) != size ? -1 : read(handle, bytes, sizeof bytes);
    int error = errno;
    if (handle >= 0)
        close(handle);
    if (n < 0)
        refuse(answer, "the TPM does not answer", error);
    else
        answer_hex(answer, bytes, (size_t)n);
}

void device_sha256(const char *path, unsigned mib, char *answer)
{
    char hex[65];
    if (file_sha256(path, (uint64_t)mib * MIB, hex))
        snprintf(answer, ANSWER_BYTES, "{\"sha256\":\"%s\"}", hex);
    else
        snprintf(answer, ANSWER_BYTES, "{\"error\":\"cannot read %u MiB of %s\"}", mib, path);
}

void device_fill(const char *path, unsigned mib, char *answer)
{
    uint64_t *words = NULL;
    int handle = open(path, O_WRONLY | O_DIRECT | O_CLOEXEC);
    bool good = handle >= 0 && posix_memalign((void **)&words, PAGE, MIB) == 0;
    for (unsigned unit = 0; good && unit < mib; unit++) {
        for (uint64_t i = 0; i < MIB / sizeof *words; i++)
            words[i] = pattern_word(unit, 1, i);
        good = pwrite(handle, words, MIB, (off_t)unit * MIB) == MIB;
    }
    good = good && fsync(handle) == 0;
    int error = errno;
    if (handle >= 0)
        close(handle);
    free(words);
    if (good)
        snprintf(answer, ANSWER_BYTES, "{\"ok\":true}");
    else
        refuse(answer, "cannot fill the device", error);
}
