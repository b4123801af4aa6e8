/*
 * Save and load the state of all devices, without guest memory
 *
 * Loading replaces the state of a VM whose reset was trapped, in the running
 * process.  The stream has come a long way from a machine that a guest may
 * have taken over.  It was checked before it came here; nevertheless nothing
 * in it may bring this process down, and no half of it may stay:
 *
 *  - the sections have to be the ones that this VM would save, in order,
 *    with equal versions; stock loading takes missing ones for reset state;
 *  - after loading, the VM is saved again and has to give the same bytes, so
 *    nothing was silently corrected, ignored or marked as broken;
 *  - on any failure the machine is reset, which makes it trapped again.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include "block/block.h"
#include "hw/boards.h"
#include "hw/i386/airlock.h"
#include "hw/pci/pci_bus.h"
#include "hw/pci/pci_device.h"
#include "io/channel-buffer.h"
#include "io/channel-file.h"
#include "migration/misc.h"
#include "monitor/monitor.h"
#include "qapi/error.h"
#include "qapi/qapi-commands-airlock.h"
#include "qemu-file.h"
#include "qemu/seqlock.h"
#include "savevm.h"
#include "system/cpu-timers-internal.h"
#include "system/cpus.h"
#include "system/hw_accel.h"
#include "system/runstate.h"

#define AIRLOCK_STREAM_MAX  (16 * MiB)

/* No field descriptions: who reads the stream knows this machine. */
static const char airlock_vmdesc[] = "{}";

static const char *airlock_machine_name(void)
{
    return MACHINE_GET_CLASS(current_machine)->name;
}

/*
 * "globalstate" is migration's note about the source's run state, no device.
 */
static bool airlock_next_device(SaveVMDevice *dev)
{
    do {
        if (!qemu_savevm_next_device(dev)) {
            return false;
        }
    } while (!strcmp(dev->idstr, "globalstate"));
    return true;
}

/* @starts: if not NULL, the offset of each section is appended (uint64_t) */
static bool airlock_save_stream(QEMUFile *f, GArray *starts, Error **errp)
{
    SaveVMDevice dev = {};
    uint32_t section_id = 0;
    /* The counter is one for all files. */
    uint64_t before = qemu_file_transferred(f);

    qemu_put_be32(f, QEMU_VM_FILE_MAGIC);
    qemu_put_be32(f, QEMU_VM_FILE_VERSION);

    qemu_put_byte(f, QEMU_VM_CONFIGURATION);
    qemu_put_be32(f, strlen(airlock_machine_name()));
    qemu_put_buffer(f, (const uint8_t *)airlock_machine_name(),
                    strlen(airlock_machine_name()));

    cpu_synchronize_all_states();
    while (airlock_next_device(&dev)) {
        if (starts) {
            uint64_t offset = qemu_file_transferred(f) - before;

            g_array_append_val(starts, offset);
        }
        qemu_put_byte(f, QEMU_VM_SECTION_FULL);
        qemu_put_be32(f, section_id);
        qemu_put_counted_string(f, dev.idstr);
        qemu_put_be32(f, dev.instance_id);
        qemu_put_be32(f, dev.version_id);
        if (qemu_savevm_save_device(f, &dev, errp) < 0) {
            return false;
        }
        qemu_put_byte(f, QEMU_VM_SECTION_FOOTER);
        qemu_put_be32(f, section_id);
        section_id++;
    }

    qemu_put_byte(f, QEMU_VM_EOF);
    qemu_put_byte(f, QEMU_VM_VMDESCRIPTION);
    qemu_put_be32(f, strlen(airlock_vmdesc));
    qemu_put_buffer(f, (const uint8_t *)airlock_vmdesc,
                    strlen(airlock_vmdesc));
    return true;
}

/* Closing a QEMUFile empties the buffer behind it. */
static QIOChannelBuffer *airlock_copy_buffer(const QIOChannelBuffer *buf)
{
    QIOChannelBuffer *copy = qio_channel_buffer_new(buf->usage);

    qio_channel_write_all(QIO_CHANNEL(copy), (const char *)buf->data,
                          buf->usage, &error_abort);
    copy->offset = 0;
    return copy;
}

/* Save to memory.  The caller unrefs the result; NULL on error. */
static QIOChannelBuffer *airlock_save_to_buffer(GArray *starts, Error **errp)
{
    QIOChannelBuffer *buf = qio_channel_buffer_new(64 * KiB);
    QEMUFile *f = qemu_file_new_output(QIO_CHANNEL(buf));
    QIOChannelBuffer *saved = NULL;

    if (airlock_save_stream(f, starts, errp)) {
        if (qemu_fflush(f) < 0) {
            error_setg(errp, "Cannot save the device state");
        } else {
            saved = airlock_copy_buffer(buf);
        }
    }
    qemu_fclose(f);
    object_unref(OBJECT(buf));
    return saved;
}

/*
 * Has something wanted bytes behind the end?  A buffer in memory knows no
 * other failure, and no device of this machine answers -EIO to its state.
 */
static bool airlock_stream_ended(QEMUFile *f)
{
    return qemu_file_get_error(f) == -EIO;
}

static bool airlock_load_header(QEMUFile *f, Error **errp)
{
    const char *name = airlock_machine_name();
    g_autofree char *read_name = g_malloc0(strlen(name) + 1);

    if (qemu_get_be32(f) != QEMU_VM_FILE_MAGIC ||
        qemu_get_be32(f) != QEMU_VM_FILE_VERSION) {
        error_setg(errp, "Not a device state stream%s",
                   airlock_stream_ended(f) ?
                   ": it ends before its configuration" : "");
        return false;
    }
    if (qemu_get_byte(f) != QEMU_VM_CONFIGURATION ||
        qemu_get_be32(f) != strlen(name) ||
        qemu_get_buffer(f, (uint8_t *)read_name, strlen(name)) !=
        strlen(name) || strcmp(read_name, name)) {
        if (airlock_stream_ended(f)) {
            error_setg(errp, "configuration: the stream ends in it");
        } else {
            error_setg(errp, "configuration: the stream is not of machine "
                       "type '%s'", name);
        }
        return false;
    }
    return true;
}

static void airlock_report_cut(const SaveVMDevice *dev, Error **errp)
{
    error_setg(errp, "section '%s' instance %" PRIu32 " is cut short: the "
               "stream ends in it or before it", dev->idstr, dev->instance_id);
}

/* The header of a section as the stream has it */
typedef struct AirlockHeader {
    bool full;      /* it is a section, and has the number that is next */
    bool named;
    char idstr[256];
    uint32_t instance_id;
    uint32_t version_id;
} AirlockHeader;

static void airlock_read_header(QEMUFile *f, uint32_t section_id,
                                AirlockHeader *header)
{
    header->full = qemu_get_byte(f) == QEMU_VM_SECTION_FULL &&
                   qemu_get_be32(f) == section_id;
    header->named = header->full && qemu_get_counted_string(f, header->idstr);
    if (header->named) {
        header->instance_id = qemu_get_be32(f);
        header->version_id = qemu_get_be32(f);
    }
}

static bool airlock_load_section_header(QEMUFile *f, const SaveVMDevice *dev,
                                        uint32_t section_id, Error **errp)
{
    AirlockHeader header = {};

    airlock_read_header(f, section_id, &header);
    if (airlock_stream_ended(f)) {
        airlock_report_cut(dev, errp);
    } else if (!header.full) {
        error_setg(errp, "section '%s' instance %" PRIu32 " is missing",
                   dev->idstr, dev->instance_id);
    } else if (!header.named) {
        error_setg(errp, "section %" PRIu32 " has no name", section_id);
    } else if (strcmp(header.idstr, dev->idstr) ||
               header.instance_id != dev->instance_id) {
        error_setg(errp, "section '%s' instance %" PRIu32 " where '%s' "
                   "instance %" PRIu32 " is expected", header.idstr,
                   header.instance_id, dev->idstr, dev->instance_id);
    } else if (header.version_id != dev->version_id) {
        error_setg(errp, "section '%s' instance %" PRIu32 " has version %"
                   PRIu32 ", this machine has %" PRIu32, header.idstr,
                   header.instance_id, header.version_id, dev->version_id);
    } else {
        return true;
    }
    return false;
}

static bool airlock_load_section(QEMUFile *f, const SaveVMDevice *dev,
                                 uint32_t section_id, Error **errp)
{
    bool ends;
    int ret;

    if (!airlock_load_section_header(f, dev, section_id, errp)) {
        return false;
    }
    ret = qemu_loadvm_load_device(f, dev);
    /* A cut footer reads as zeros, and that may be the number it has. */
    ends = ret >= 0 && qemu_get_byte(f) == QEMU_VM_SECTION_FOOTER &&
           qemu_get_be32(f) == section_id;
    if (airlock_stream_ended(f)) {
        airlock_report_cut(dev, errp);
    } else if (ret < 0 || qemu_file_get_error(f)) {
        error_setg(errp, "section '%s' instance %" PRIu32 " was refused by "
                   "the device (error %d)", dev->idstr, dev->instance_id,
                   ret < 0 ? ret : qemu_file_get_error(f));
    } else if (!ends) {
        error_setg(errp, "section '%s' instance %" PRIu32 " does not end "
                   "where it should", dev->idstr, dev->instance_id);
    } else {
        return true;
    }
    return false;
}

/* @last: the section that was loaded last */
static bool airlock_load_end(QEMUFile *f, const SaveVMDevice *last,
                             Error **errp)
{
    char vmdesc[sizeof(airlock_vmdesc)] = "";

    if (qemu_get_byte(f) != QEMU_VM_EOF) {
        error_setg(errp, "the stream has more sections than this machine");
        return false;
    }
    if (qemu_get_byte(f) != QEMU_VM_VMDESCRIPTION ||
        qemu_get_be32(f) != strlen(airlock_vmdesc) ||
        qemu_get_buffer(f, (uint8_t *)vmdesc, strlen(airlock_vmdesc)) !=
        strlen(airlock_vmdesc) || strcmp(vmdesc, airlock_vmdesc) ||
        qemu_file_get_error(f)) {
        error_setg(errp, "the stream does not end with an empty description "
                   "behind section '%s' instance %" PRIu32 "%s", last->idstr,
                   last->instance_id,
                   airlock_stream_ended(f) ? ": it is cut short" : "");
        return false;
    }
    return true;
}

static bool airlock_load_stream(const QIOChannelBuffer *buf, Error **errp)
{
    QIOChannelBuffer *copy = airlock_copy_buffer(buf);
    QEMUFile *f = qemu_file_new_input(QIO_CHANNEL(copy));
    SaveVMDevice dev = {}, last = {};
    uint32_t section_id = 0;
    bool ok = airlock_load_header(f, errp);

    while (ok && airlock_next_device(&dev)) {
        last = dev;
        ok = airlock_load_section(f, &dev, section_id++, errp);
    }
    ok = ok && airlock_load_end(f, &last, errp);
    qemu_fclose(f);
    object_unref(OBJECT(copy));
    return ok;
}

/* Which section holds the byte at @offset, given where sections start? */
static void airlock_report_difference(const GArray *starts, uint64_t offset,
                                      Error **errp)
{
    SaveVMDevice dev = { .idstr = "configuration" };

    for (guint i = 0; i < starts->len &&
         g_array_index(starts, uint64_t, i) <= offset; i++) {
        airlock_next_device(&dev);
    }
    error_setg(errp, "section '%s' instance %" PRIu32 " was changed by the "
               "device while loading (byte %" PRIu64 " of the stream)",
               dev.idstr, dev.instance_id, offset);
}

static bool airlock_verify_loaded(const QIOChannelBuffer *loaded,
                                  Error **errp)
{
    g_autoptr(GArray) starts = g_array_new(false, false, sizeof(uint64_t));
    QIOChannelBuffer *saved = airlock_save_to_buffer(starts, errp);
    size_t i = 0;
    bool same;

    if (!saved) {
        return false;
    }
    while (i < loaded->usage && i < saved->usage &&
           loaded->data[i] == saved->data[i]) {
        i++;
    }
    same = i == loaded->usage && i == saved->usage;
    if (!same && i == saved->usage) {
        error_setg(errp, "the stream goes on after its end");
    } else if (!same) {
        airlock_report_difference(starts, i, errp);
    }
    object_unref(OBJECT(saved));
    return same;
}

/* Read all of @fd, which this consumes.  The caller unrefs the result. */
static QIOChannelBuffer *airlock_read_fd(int fd, Error **errp)
{
    QIOChannelBuffer *buf = qio_channel_buffer_new(64 * KiB);
    g_autofree uint8_t *chunk = g_malloc(64 * KiB);
    ssize_t n;

    while ((n = RETRY_ON_EINTR(read(fd, chunk, 64 * KiB))) > 0) {
        if (buf->usage + n > AIRLOCK_STREAM_MAX) {
            error_setg(errp, "The stream is longer than %" PRIu64 " bytes",
                       (uint64_t)AIRLOCK_STREAM_MAX);
            break;
        }
        qio_channel_write_all(QIO_CHANNEL(buf), (char *)chunk, n,
                              &error_abort);
    }
    if (n < 0) {
        error_setg_errno(errp, errno, "Cannot read the stream");
    }
    close(fd);
    if (n != 0) {
        object_unref(OBJECT(buf));
        return NULL;
    }
    buf->offset = 0;
    return buf;
}

void qmp___internal_airlock_save(const char *fdname, Error **errp)
{
    int fd = monitor_get_fd(monitor_cur(), fdname, errp);
    QIOChannelBuffer *buf;
    QIOChannelFile *out;

    if (fd < 0) {
        return;
    }
    out = qio_channel_file_new_fd(fd);
    if (runstate_is_running()) {
        error_setg(errp, "The VM is running; stop it first");
    } else {
        buf = airlock_save_to_buffer(NULL, errp);
        if (buf) {
            qio_channel_write_all(QIO_CHANNEL(out), (char *)buf->data,
                                  buf->usage, errp);
            object_unref(OBJECT(buf));
        }
    }
    object_unref(OBJECT(out));
}

/*
 * QEMU never lets the guest's TSC go back.  The guest that is loaded may have
 * run for a shorter time than the one before it: its TSC starts anew.
 */
static void airlock_forget_ticks(void)
{
    seqlock_write_lock(&timers_state.vm_clock_seqlock,
                       &timers_state.vm_clock_lock);
    timers_state.cpu_ticks_prev = 0;
    seqlock_write_unlock(&timers_state.vm_clock_seqlock,
                         &timers_state.vm_clock_lock);
}

/* The configuration space of a PCI device, as it was before loading. */
typedef struct AirlockPCIConfig {
    PCIDevice *dev;
    uint8_t *bytes;
} AirlockPCIConfig;

static void airlock_pci_config_clear(AirlockPCIConfig *kept)
{
    g_free(kept->bytes);
}

static int airlock_keep_pci_config(Object *obj, void *opaque)
{
    PCIDevice *dev = (PCIDevice *)object_dynamic_cast(obj, TYPE_PCI_DEVICE);

    if (dev) {
        AirlockPCIConfig kept = {
            .dev = dev,
            .bytes = g_memdup2(dev->config, pci_config_size(dev)),
        };

        g_array_append_val(opaque, kept);
    }
    return 0;
}

static GArray *airlock_keep_pci_configs(void)
{
    GArray *kept = g_array_new(false, false, sizeof(AirlockPCIConfig));

    g_array_set_clear_func(kept, (GDestroyNotify)airlock_pci_config_clear);
    object_child_foreach_recursive(object_get_root(), airlock_keep_pci_config,
                                   kept);
    return kept;
}

/* The name that error messages use, "0000:00:02.0/virtio-blk". */
static const char *airlock_pci_section(PCIDevice *dev)
{
    g_autofree char *path = qdev_get_dev_path(DEVICE(dev));
    size_t length = strlen(path);
    SaveVMDevice section = {};

    while (airlock_next_device(&section)) {
        if (!strncmp(section.idstr, path, length) &&
            section.idstr[length] == '/') {
            return section.idstr;
        }
    }
    return object_get_typename(OBJECT(dev));
}

/*
 * Bits that no guest can write have to be as they are here.  QEMU compares
 * little of this, and nothing behind the standard header.  There the host
 * bridge has what its firmware has set, in bits that are not writable here.
 */
static bool airlock_check_pci_configs(const GArray *kept, Error **errp)
{
    for (guint i = 0; i < kept->len; i++) {
        AirlockPCIConfig *old = &g_array_index(kept, AirlockPCIConfig, i);
        PCIDevice *dev = old->dev;
        bool bridge = pci_get_word(old->bytes + PCI_CLASS_DEVICE) ==
                      PCI_CLASS_BRIDGE_HOST;
        uint32_t end = bridge ? PCI_CONFIG_HEADER_SIZE : pci_config_size(dev);

        for (uint32_t at = 0; at < end; at++) {
            uint8_t free = dev->wmask[at] | dev->w1cmask[at];

            if (at == PCI_STATUS) {
                free |= PCI_STATUS_INTERRUPT;
            }
            if ((dev->config[at] ^ old->bytes[at]) & ~free) {
                error_setg(errp, "section '%s' instance 0 has 0x%02x at 0x%"
                           PRIx32 " of the configuration space, which is "
                           "0x%02x", airlock_pci_section(dev),
                           dev->config[at], at, old->bytes[at]);
                return false;
            }
        }
    }
    return true;
}

/*
 * The bus counts the interrupts of its devices in a section of its own; the
 * next reset would not survive another number.
 */
static int airlock_check_pci_bus(Object *obj, void *opaque)
{
    PCIBus *bus = (PCIBus *)object_dynamic_cast(obj, TYPE_PCI_BUS);
    g_autofree int *raised = NULL;

    if (!bus) {
        return 0;
    }
    raised = g_new0(int, bus->nirq);
    for (int i = 0; i < ARRAY_SIZE(bus->devices); i++) {
        PCIDevice *dev = bus->devices[i];

        for (int pin = 0; dev && pin < PCI_NUM_PINS; pin++) {
            if ((dev->irq_state >> pin & 1) && !pci_irq_disabled(dev)) {
                raised[bus->map_irq(dev, pin)]++;
            }
        }
    }
    for (int i = 0; i < bus->nirq; i++) {
        if (raised[i] != bus->irq_count[i]) {
            error_setg(opaque, "section 'PCIBUS' instance 0 counts %d devices "
                       "that hold interrupt %d, there are %d",
                       bus->irq_count[i], i, raised[i]);
            return -EINVAL;
        }
    }
    return 0;
}

static bool airlock_check_loaded(const GArray *kept, Error **errp)
{
    return airlock_check_pci_configs(kept, errp) &&
           object_child_foreach_recursive(object_get_root(),
                                          airlock_check_pci_bus, errp) == 0;
}

/* Take the trapped VM to the state in @buf, or back to being trapped. */
static void airlock_replace_state(QIOChannelBuffer *buf, Error **errp)
{
    g_autoptr(GArray) kept = NULL;
    bool ok;

    bdrv_drain_all_begin();
    qemu_system_reset(SHUTDOWN_CAUSE_SNAPSHOT_LOAD);
    airlock_forget_ticks();
    kept = airlock_keep_pci_configs();

    cpu_synchronize_all_pre_loadvm();
    ok = airlock_load_stream(buf, errp) && airlock_check_loaded(kept, errp) &&
         airlock_verify_loaded(buf, errp);
    if (ok) {
        cpu_synchronize_all_post_init();
        airlock_trap_release();
    } else {
        qemu_system_reset(SHUTDOWN_CAUSE_SUBSYSTEM_RESET);
    }
    bdrv_drain_all_end();
}

void qmp___internal_airlock_load(const char *fdname, Error **errp)
{
    int fd = monitor_get_fd(monitor_cur(), fdname, errp);
    QIOChannelBuffer *buf;

    if (fd < 0) {
        return;
    }
    buf = airlock_read_fd(fd, errp);
    if (!buf) {
        return;
    }
    if (runstate_is_running() || !airlock_trap_is_trapped()) {
        error_setg(errp, "The VM is not trapped; a state can only be loaded "
                   "after the guest's reset was trapped");
    } else if (migration_is_running() || runstate_check(RUN_STATE_INMIGRATE)) {
        error_setg(errp, "A migration is running");
    } else {
        airlock_replace_state(buf, errp);
    }
    object_unref(OBJECT(buf));
}
