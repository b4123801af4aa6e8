/*
 * Bring a trapped guest's disk to the state that the boot of it has left
 *
 * The guest was booted elsewhere, on a copy of its disk.  What it wrote there
 * comes back as a list of changed blocks.  They are written through the very
 * BlockBackend that the guest's device has: nobody else may open the image
 * for writing, and any format or protocol will do.
 *
 * The caller has checked the list before the first block is written.  It is
 * checked here again, as it is written, for a bug there must not become an
 * access beyond a buffer here.  Applying the same list again is harmless.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include "hw/i386/airlock.h"
#include "monitor/monitor.h"
#include "qapi/error.h"
#include "qapi/qapi-commands-airlock.h"
#include "qemu/bswap.h"
#include "qemu/host-utils.h"
#include "system/block-backend.h"
#include "system/runstate.h"

/* Format: devmodel/handover/image_stream.hpp of the Airlock project */
#define AIRLOCK_IMAGE_MAGIC     "ALIMAGE1"
#define AIRLOCK_IMAGE_END       UINT64_MAX
#define AIRLOCK_SECTOR          512
#define AIRLOCK_PAGE            4096
#define AIRLOCK_CHUNK           (64 * AIRLOCK_PAGE)

typedef struct AirlockDelta {
    int fd;
    BlockBackend *blk;
    uint64_t bytes;
    uint64_t chunk;
    uint64_t mask;
    uint8_t *pages;
} AirlockDelta;

static bool airlock_delta_read(AirlockDelta *delta, void *buf, size_t size,
                               Error **errp)
{
    uint8_t *to = buf;

    while (size) {
        ssize_t n = RETRY_ON_EINTR(read(delta->fd, to, size));

        if (n < 0) {
            error_setg_errno(errp, errno, "Cannot read the delta");
            return false;
        }
        if (n == 0) {
            error_setg(errp, "The delta ends early");
            return false;
        }
        to += n;
        size -= n;
    }
    return true;
}

static bool airlock_delta_read_be64(AirlockDelta *delta, uint64_t *value,
                                    Error **errp)
{
    if (!airlock_delta_read(delta, value, sizeof(*value), errp)) {
        return false;
    }
    *value = be64_to_cpu(*value);
    return true;
}

static bool airlock_delta_read_head(AirlockDelta *delta, Error **errp)
{
    char magic[sizeof(AIRLOCK_IMAGE_MAGIC) - 1];
    int64_t size = blk_getlength(delta->blk);

    if (!airlock_delta_read(delta, magic, sizeof(magic), errp) ||
        !airlock_delta_read_be64(delta, &delta->bytes, errp)) {
        return false;
    }
    if (memcmp(magic, AIRLOCK_IMAGE_MAGIC, sizeof(magic))) {
        error_setg(errp, "The delta is no image stream");
        return false;
    }
    if (size < 0 || delta->bytes != size || delta->bytes % AIRLOCK_SECTOR) {
        error_setg(errp, "The delta is for a disk of %" PRIu64 " bytes, this "
                   "one has %" PRId64, delta->bytes, size);
        return false;
    }
    return true;
}

/* Write or unmap a run of pages of the current chunk. */
static bool airlock_delta_write_run(AirlockDelta *delta, unsigned page,
                                    unsigned count, const uint8_t *data,
                                    Error **errp)
{
    int64_t offset = delta->chunk * AIRLOCK_CHUNK + page * AIRLOCK_PAGE;
    /* The last page of a disk may be short. */
    int64_t size = MIN(count * AIRLOCK_PAGE, delta->bytes - offset);
    int ret = data ? blk_pwrite(delta->blk, offset, size, data, 0)
                   : blk_pwrite_zeroes(delta->blk, offset, size,
                                       BDRV_REQ_MAY_UNMAP);

    if (ret < 0) {
        error_setg_errno(errp, -ret, "Cannot write to the disk at %" PRId64,
                         offset);
        return false;
    }
    return true;
}

static bool airlock_delta_write_chunk(AirlockDelta *delta, Error **errp)
{
    size_t size = MIN(AIRLOCK_CHUNK,
                      delta->bytes - delta->chunk * AIRLOCK_CHUNK);
    unsigned pages = DIV_ROUND_UP(size, AIRLOCK_PAGE);
    size_t masked = ctpop64(delta->mask) * AIRLOCK_PAGE;
    const uint8_t *data = delta->pages;
    unsigned page = 0;

    if (pages < 64 && delta->mask >> pages) {
        error_setg(errp, "The delta has pages beyond the disk");
        return false;
    }
    if (delta->mask >> (pages - 1) & 1) {
        masked -= pages * AIRLOCK_PAGE - size;
    }
    if (!airlock_delta_read(delta, delta->pages, masked, errp)) {
        return false;
    }
    while (page < pages) {
        uint64_t rest = delta->mask >> page;
        bool set = rest & 1;
        unsigned run = MIN(set ? cto64(rest) : ctz64(rest), pages - page);

        if (!airlock_delta_write_run(delta, page, run, set ? data : NULL,
                                     errp)) {
            return false;
        }
        data += set ? run * AIRLOCK_PAGE : 0;
        page += run;
    }
    return true;
}

static bool airlock_delta_apply(AirlockDelta *delta, Error **errp)
{
    uint64_t next = 0;
    int ret;

    if (!airlock_delta_read_head(delta, errp)) {
        return false;
    }
    while (airlock_delta_read_be64(delta, &delta->chunk, errp) &&
           airlock_delta_read_be64(delta, &delta->mask, errp)) {
        if (delta->chunk == AIRLOCK_IMAGE_END) {
            ret = blk_flush(delta->blk);
            if (ret < 0) {
                error_setg_errno(errp, -ret, "Cannot flush the disk");
            }
            return ret >= 0;
        }
        if (delta->chunk < next ||
            delta->chunk > (delta->bytes - 1) / AIRLOCK_CHUNK) {
            error_setg(errp, "The delta's chunk %" PRIu64 " is out of order "
                       "or beyond the disk", delta->chunk);
            return false;
        }
        if (!airlock_delta_write_chunk(delta, errp)) {
            return false;
        }
        next = delta->chunk + 1;
    }
    return false;
}

void qmp___internal_airlock_apply(const char *device, const char *fdname,
                                  Error **errp)
{
    g_autofree uint8_t *pages = g_malloc(AIRLOCK_CHUNK);
    AirlockDelta delta = {
        .fd = monitor_get_fd(monitor_cur(), fdname, errp),
        .pages = pages,
    };

    if (delta.fd < 0) {
        return;
    }
    delta.blk = blk_by_qdev_id(device, errp);
    if (delta.blk) {
        if (runstate_is_running() || !airlock_trap_guest_waits()) {
            error_setg(errp, "The guest is running or may go on; its "
                       "disks are its own");
        } else if (!blk_is_writable(delta.blk)) {
            error_setg(errp, "Disk '%s' is read-only", device);
        } else {
            airlock_delta_apply(&delta, errp);
        }
    }
    close(delta.fd);
}
