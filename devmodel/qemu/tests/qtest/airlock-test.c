/*
 * Tests of the Airlock production machine: reset trap, empty bus, power
 * management, saving and loading of device state
 *
 * There is no CPU in a qtest, so the test plays the guest, and it plays the
 * stub at the reset vector by writing 0xFE to port 0x64 after a reset.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include "libqtest.h"
#include "libqos/pci-pc.h"
#include "hw/pci/pci_regs.h"
#include "qobject/qdict.h"
#include "qobject/qnum.h"

#define MACHINE         "-machine airlock-1.0 -nodefaults -display none -m 64 "
#define KBD_PORT        0x64
#define SYSCTL_PORT     0x61
#define RST_CNT_PORT    0xcf9
#define PM_EVT          0x600
#define PM_EN           0x602
#define PM_CNT          0x604
#define PM_TMR          0x608
#define TRAP_EVENT      "__internal.airlock_TRAP"

static void stub_runs(QTestState *qts)
{
    qtest_outb(qts, KBD_PORT, 0xfe);
}

/* Wait for the trap and check what it says.  @port -1: no port expected. */
static void expect_trap(QTestState *qts, const char *cause, int port,
                        int value, int count)
{
    QDict *event = qtest_qmp_eventwait_ref(qts, TRAP_EVENT);
    QDict *data = qdict_get_qdict(event, "data");

    g_assert_cmpstr(qdict_get_str(data, "cause"), ==, cause);
    g_assert_cmpint(qdict_get_int(data, "count"), ==, count);
    if (port < 0) {
        g_assert_false(qdict_haskey(data, "port"));
        g_assert_false(qdict_haskey(data, "value"));
    } else {
        g_assert_cmpint(qdict_get_int(data, "port"), ==, port);
        g_assert_cmpint(qdict_get_int(data, "value"), ==, value);
    }
    qobject_unref(event);
    qtest_qmp_eventwait(qts, "STOP");
}

static bool query_flag(QTestState *qts, const char *flag)
{
    QDict *rsp = qtest_qmp(qts, "{'execute':"
                           " '__internal.airlock_query-trap'}");
    bool value = qdict_get_bool(qdict_get_qdict(rsp, "return"), flag);

    qobject_unref(rsp);
    return value;
}

static bool query_trapped(QTestState *qts)
{
    return query_flag(qts, "trapped");
}

static void pass_fd(QTestState *qts, int fd)
{
    QDict *rsp = qtest_qmp_fds(qts, &fd, 1, "{'execute': 'getfd',"
                               " 'arguments': {'fdname': 'state'}}");

    g_assert(qdict_haskey(rsp, "return"));
    qobject_unref(rsp);
}

static GByteArray *save_state(QTestState *qts)
{
    g_autofree char *path = NULL;
    GByteArray *bytes = g_byte_array_new();
    uint8_t chunk[4096];
    ssize_t n;
    int fd = g_file_open_tmp("airlock-XXXXXX", &path, NULL);

    g_assert_cmpint(fd, >=, 0);
    unlink(path);
    pass_fd(qts, fd);
    qtest_qmp_assert_success(qts, "{'execute': '__internal.airlock_save',"
                             " 'arguments': {'fd': 'state'}}");
    g_assert_cmpint(lseek(fd, 0, SEEK_SET), ==, 0);
    while ((n = read(fd, chunk, sizeof(chunk))) > 0) {
        g_byte_array_append(bytes, chunk, n);
    }
    g_assert_cmpint(n, ==, 0);
    g_assert_cmpuint(bytes->len, >, 0);
    close(fd);
    return bytes;
}

/* Load @size bytes.  Returns the error's text, NULL for success. */
static char *load_state(QTestState *qts, const uint8_t *data, size_t size)
{
    g_autofree char *path = NULL;
    char *desc = NULL;
    QDict *rsp;
    int fd = g_file_open_tmp("airlock-XXXXXX", &path, NULL);

    g_assert_cmpint(fd, >=, 0);
    unlink(path);
    g_assert_cmpint(write(fd, data, size), ==, size);
    g_assert_cmpint(lseek(fd, 0, SEEK_SET), ==, 0);
    pass_fd(qts, fd);
    close(fd);
    rsp = qtest_qmp(qts, "{'execute': '__internal.airlock_load',"
                    " 'arguments': {'fd': 'state'}}");
    if (qdict_haskey(rsp, "error")) {
        desc = g_strdup(qdict_get_str(qdict_get_qdict(rsp, "error"), "desc"));
    }
    qobject_unref(rsp);
    return desc;
}

/* Trap the machine, load its own state and continue: a guest is running. */
static void bring_to_life(QTestState *qts)
{
    g_autoptr(GByteArray) state = NULL;

    stub_runs(qts);
    expect_trap(qts, "cold-start", -1, 0, 1);
    state = save_state(qts);
    g_assert_null(load_state(qts, state->data, state->len));
    qtest_qmp_assert_success(qts, "{'execute': 'cont'}");
    qtest_qmp_eventwait(qts, "RESUME");
}

static void test_cold_start(void)
{
    QTestState *qts = qtest_init(MACHINE);

    g_assert_false(query_trapped(qts));
    g_assert_true(query_flag(qts, "at-stub"));
    stub_runs(qts);
    expect_trap(qts, "cold-start", -1, 0, 1);
    g_assert_true(query_trapped(qts));
    g_assert_true(query_flag(qts, "at-stub"));
    g_assert_false(query_flag(qts, "ran"));

    /* Continued without a state it traps again, which is no new trap. */
    qtest_qmp_assert_success(qts, "{'execute': 'cont'}");
    stub_runs(qts);
    expect_trap(qts, "cold-start", -1, 0, 1);
    qtest_quit(qts);
}

/* What a host agent that was away meanwhile can tell. */
static void test_has_run(void)
{
    QTestState *qts = qtest_init(MACHINE);
    g_autoptr(GByteArray) state = NULL;

    stub_runs(qts);
    expect_trap(qts, "cold-start", -1, 0, 1);
    state = save_state(qts);
    g_assert_null(load_state(qts, state->data, state->len));
    g_assert_false(query_flag(qts, "at-stub"));
    g_assert_false(query_flag(qts, "ran"));

    qtest_qmp_assert_success(qts, "{'execute': 'cont'}");
    g_assert_true(query_flag(qts, "ran"));
    qtest_qmp_assert_success(qts, "{'execute': 'stop'}");
    g_assert_true(query_flag(qts, "ran"));
    g_assert_false(query_flag(qts, "at-stub"));
    qtest_qmp_assert_success(qts, "{'execute': 'cont'}");

    /* Its next trap does not hide it, the next state does. */
    qtest_outb(qts, KBD_PORT, 0xfe);
    qtest_qmp_eventwait(qts, "RESET");
    g_assert_true(query_flag(qts, "at-stub"));
    stub_runs(qts);
    expect_trap(qts, "port", KBD_PORT, 0xfe, 2);
    g_assert_true(query_flag(qts, "ran"));
    g_assert_null(load_state(qts, state->data, state->len));
    g_assert_false(query_flag(qts, "ran"));
    qtest_quit(qts);
}

static uint64_t query_life(QTestState *qts)
{
    QDict *rsp = qtest_qmp(qts, "{'execute':"
                           " '__internal.airlock_query-trap'}");
    uint64_t life;

    g_assert_true(qnum_get_try_uint(
        qobject_to(QNum, qdict_get(qdict_get_qdict(rsp, "return"), "life")),
        &life));
    qobject_unref(rsp);
    return life;
}

/* Each process is told from the next by its number. */
static void test_life(void)
{
    QTestState *first = qtest_init(MACHINE);
    QTestState *second = qtest_init(MACHINE);
    uint64_t life = query_life(first);

    g_assert_cmphex(life, !=, query_life(second));
    bring_to_life(first);
    g_assert_cmphex(life, ==, query_life(first));
    qtest_quit(second);
    qtest_quit(first);
}

static void check_door(uint16_t port, uint8_t value)
{
    QTestState *qts = qtest_init(MACHINE);

    bring_to_life(qts);
    qtest_outb(qts, port, value);
    qtest_qmp_eventwait(qts, "RESET");
    stub_runs(qts);
    expect_trap(qts, "port", port, value, 2);
    qtest_quit(qts);
}

static void test_door_kbd(void)
{
    check_door(KBD_PORT, 0xfe);
    check_door(KBD_PORT, 0xf0);
}

static void test_door_rst_cnt(void)
{
    check_door(RST_CNT_PORT, 0x06);
    check_door(RST_CNT_PORT, 0x0e);
}

static void test_no_door(void)
{
    static const struct { uint16_t port; uint8_t value; } writes[] = {
        { KBD_PORT, 0x00 }, { KBD_PORT, 0xd1 }, { KBD_PORT, 0xff },
        { RST_CNT_PORT, 0x02 }, { RST_CNT_PORT, 0x0a }, { 0x92, 0x01 },
    };
    QTestState *qts = qtest_init(MACHINE);

    bring_to_life(qts);
    for (int i = 0; i < ARRAY_SIZE(writes); i++) {
        qtest_outb(qts, writes[i].port, writes[i].value);
        g_assert_null(qtest_qmp_event_ref(qts, "RESET"));
    }
    g_assert_false(query_trapped(qts));
    qtest_quit(qts);
}

static void test_system_reset(void)
{
    QTestState *qts = qtest_init(MACHINE);

    bring_to_life(qts);
    qtest_qmp_assert_success(qts, "{'execute': 'system_reset'}");
    qtest_qmp_eventwait(qts, "RESET");
    stub_runs(qts);
    expect_trap(qts, "system-reset", -1, 0, 2);
    qtest_quit(qts);
}

static void test_stub(void)
{
    QTestState *qts = qtest_init(MACHINE);
    uint8_t code[16];

    qtest_memread(qts, 0xfffffff0, code, sizeof(code));
    g_assert_cmphex(code[0], ==, 0xb0);     /* mov $0xfe, %al */
    g_assert_cmphex(code[1], ==, 0xfe);
    g_assert_cmphex(code[2], ==, 0xe6);     /* out %al, $0x64 */
    g_assert_cmphex(code[3], ==, KBD_PORT);
    g_assert_cmphex(code[4], ==, 0xeb);     /* jmp to the out */
    g_assert_cmphex(code[5], ==, 0xfc);
    /* ROM: a guest cannot take the way back to the trap away. */
    qtest_writel(qts, 0xfffffff0, 0);
    g_assert_cmphex(qtest_readb(qts, 0xfffffff0), ==, 0xb0);
    qtest_quit(qts);
}

static bool port_is_claimed(unsigned port)
{
    return port == SYSCTL_PORT || port == KBD_PORT ||
           (port >= PM_EVT && port < PM_EVT + 6) ||
           (port >= PM_TMR && port < PM_TMR + 4) ||
           (port >= 0xcf8 && port < 0xd00);
}

static void test_empty_bus(void)
{
    QTestState *qts = qtest_init(MACHINE);

    g_assert_cmphex(qtest_inb(qts, KBD_PORT), ==, 0x00);
    g_assert_cmphex(qtest_inb(qts, SYSCTL_PORT), ==, 0x20);
    for (unsigned port = 0; port < 0x10000; port++) {
        if (port_is_claimed(port)) {
            continue;
        }
        g_assert_cmphex(qtest_inb(qts, port), ==, 0xff);
    }
    g_assert_cmphex(qtest_inl(qts, 0x1000), ==, 0xffffffff);
    g_assert_cmphex(qtest_inw(qts, 0x3f8), ==, 0xffff);

    g_assert_cmphex(qtest_readl(qts, 0xa0000), ==, 0xffffffff);
    g_assert_cmphex(qtest_readl(qts, 0xd0000000), ==, 0xffffffff);
    g_assert_cmphex(qtest_readq(qts, 0xfed00000), ==, UINT64_MAX);
    qtest_writel(qts, 0xd0000000, 0);
    g_assert_cmphex(qtest_readl(qts, 0xd0000000), ==, 0xffffffff);
    qtest_quit(qts);
}

static void test_power_off(void)
{
    QTestState *qts = qtest_init(MACHINE "-no-shutdown");
    QDict *event, *data;

    bring_to_life(qts);
    g_assert_cmphex(qtest_inw(qts, PM_CNT), ==, 0x1);   /* SCI_EN */
    qtest_outw(qts, PM_CNT, 0x2000);                    /* SLP_EN, S5 */
    event = qtest_qmp_eventwait_ref(qts, "SHUTDOWN");
    data = qdict_get_qdict(event, "data");
    g_assert_cmpstr(qdict_get_str(data, "reason"), ==, "guest-shutdown");
    qobject_unref(event);
    qtest_quit(qts);
}

static void test_power_button(void)
{
    QTestState *qts = qtest_init(MACHINE);

    qtest_irq_intercept_in(qts, "ioapic");
    bring_to_life(qts);
    qtest_outw(qts, PM_EN, 0x100);
    g_assert_false(qtest_get_irq(qts, 9));
    qtest_qmp_assert_success(qts, "{'execute': 'system_powerdown'}");
    qtest_qmp_eventwait(qts, "POWERDOWN");
    g_assert_cmphex(qtest_inw(qts, PM_EVT), ==, 0x100);
    g_assert_true(qtest_get_irq(qts, 9));
    qtest_outw(qts, PM_EVT, 0x100);
    g_assert_cmphex(qtest_inw(qts, PM_EVT), ==, 0);
    g_assert_false(qtest_get_irq(qts, 9));
    qtest_quit(qts);
}

static void test_pm_timer(void)
{
    QTestState *qts = qtest_init(MACHINE);
    uint32_t before = qtest_inl(qts, PM_TMR);

    qtest_clock_step(qts, 1000 * 1000 * 1000);
    g_assert_cmpint((qtest_inl(qts, PM_TMR) - before) & 0xffffff, ==,
                    3579545);
    qtest_outl(qts, PM_TMR, 0);
    g_assert_cmpint((qtest_inl(qts, PM_TMR) - before) & 0xffffff, ==,
                    3579545);
    qtest_quit(qts);
}

/* An I/O BAR over a door, the PM block or PCI configuration hides none. */
static void test_bar_over_ports(void)
{
    static const uint16_t bases[] = { 0x40, 0x600, 0xcc0 };
    QTestState *qts = qtest_init(MACHINE "-device virtio-rng-pci,addr=4,"
                                 "disable-legacy=off,rng=r "
                                 "-object rng-builtin,id=r");
    QPCIBus *bus = qpci_new_pc(qts, NULL);
    QPCIDevice *dev = qpci_device_find(bus, QPCI_DEVFN(4, 0));

    g_assert_nonnull(dev);
    bring_to_life(qts);
    for (int i = 0; i < ARRAY_SIZE(bases); i++) {
        qpci_config_writel(dev, PCI_BASE_ADDRESS_0, bases[i]);
        qpci_config_writew(dev, PCI_COMMAND, PCI_COMMAND_IO);
        g_assert_cmphex(qtest_inb(qts, KBD_PORT), ==, 0x00);
        g_assert_cmphex(qtest_inb(qts, SYSCTL_PORT), ==, 0x20);
        g_assert_cmphex(qtest_inw(qts, PM_CNT), ==, 0x1);
        g_assert_cmphex(qpci_config_readw(dev, PCI_VENDOR_ID), ==, 0x1af4);
    }
    qtest_outb(qts, KBD_PORT, 0xfe);
    qtest_qmp_eventwait(qts, "RESET");
    stub_runs(qts);
    expect_trap(qts, "port", KBD_PORT, 0xfe, 2);
    g_free(dev);
    qpci_free_pc(bus);
    qtest_quit(qts);
}

static void test_many_cpus(void)
{
    QTestState *qts = qtest_init(MACHINE "-smp 64");

    bring_to_life(qts);
    qtest_quit(qts);
}

static void test_large_memory(void)
{
    QTestState *qts = qtest_init("-machine airlock-1.0 -nodefaults "
                                 "-display none -m 3G");

    /* Split at 2 GiB; what is above goes to 4 GiB. */
    qtest_writel(qts, 0x7ffffffc, 0x12345678);
    g_assert_cmphex(qtest_readl(qts, 0x7ffffffc), ==, 0x12345678);
    g_assert_cmphex(qtest_readl(qts, 0x80000000), ==, 0xffffffff);
    qtest_writel(qts, 0x13ffffffcULL, 0x9abcdef0);
    g_assert_cmphex(qtest_readl(qts, 0x13ffffffcULL), ==, 0x9abcdef0);
    g_assert_cmphex(qtest_readl(qts, 0x140000000ULL), ==, 0xffffffff);
    qtest_quit(qts);
}

static void expect_loads(QTestState *qts, const GByteArray *state)
{
    g_autofree char *error = load_state(qts, state->data, state->len);

    g_assert_cmpstr(error, ==, NULL);
}

static void test_load_untrapped(void)
{
    QTestState *qts = qtest_init(MACHINE);
    g_autoptr(GByteArray) state = NULL;
    g_autofree char *error = NULL;

    stub_runs(qts);
    expect_trap(qts, "cold-start", -1, 0, 1);
    state = save_state(qts);
    expect_loads(qts, state);
    g_assert_true(query_flag(qts, "loaded"));

    error = load_state(qts, state->data, state->len);
    g_assert_nonnull(strstr(error, "not trapped"));

    qtest_qmp_assert_success(qts, "{'execute': 'cont'}");
    g_assert_false(query_flag(qts, "loaded"));
    qtest_quit(qts);
}

/* States come and go through the airlock only. */
static void test_no_migration(void)
{
    QTestState *qts = qtest_init(MACHINE);
    QDict *answer;
    QDict *error;

    answer = qtest_qmp(qts, "{'execute': 'migrate', "
                       "'arguments': {'uri': 'file:/dev/null'}}");
    error = qdict_get_qdict(answer, "error");
    g_assert_nonnull(error);
    g_assert_nonnull(strstr(qdict_get_str(error, "desc"),
                            "cannot be saved or migrated"));
    qobject_unref(answer);
    qtest_quit(qts);
}

/* All or nothing: whatever is wrong, the VM can still be given a state. */
static void test_bad_streams(void)
{
    QTestState *qts = qtest_init(MACHINE "-smp 2");
    g_autoptr(GByteArray) state = NULL;
    g_autofree uint8_t *copy = NULL;
    /* Magic, version, configuration, then section type, id, name, versions. */
    const size_t header_len = 4 + 4 + 5 + strlen("airlock-1.0") +
                              1 + 4 + 1 + strlen("timer") + 4 + 4;

    stub_runs(qts);
    expect_trap(qts, "cold-start", -1, 0, 1);
    state = save_state(qts);
    copy = g_memdup2(state->data, state->len);

    for (size_t len = 0; len < state->len; len += 13) {
        g_autofree char *error = load_state(qts, state->data, len);

        g_assert_nonnull(error);
        g_assert_true(query_trapped(qts));
    }
    /* Up to the contents of the first section, which may differ. */
    for (size_t at = 0; at < header_len; at++) {
        g_autofree char *error = NULL;

        copy[at] ^= 0x10;
        error = load_state(qts, copy, state->len);
        copy[at] ^= 0x10;
        g_assert_nonnull(error);
    }
    expect_loads(qts, state);
    qtest_quit(qts);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);

    qtest_add_func("/airlock/trap/cold-start", test_cold_start);
    qtest_add_func("/airlock/trap/kbd", test_door_kbd);
    qtest_add_func("/airlock/trap/rst-cnt", test_door_rst_cnt);
    qtest_add_func("/airlock/trap/no-door", test_no_door);
    qtest_add_func("/airlock/trap/system-reset", test_system_reset);
    qtest_add_func("/airlock/trap/stub", test_stub);
    qtest_add_func("/airlock/trap/has-run", test_has_run);
    qtest_add_func("/airlock/trap/life", test_life);
    qtest_add_func("/airlock/bus/empty", test_empty_bus);
    qtest_add_func("/airlock/bus/bar-over-ports", test_bar_over_ports);
    qtest_add_func("/airlock/pm/power-off", test_power_off);
    qtest_add_func("/airlock/pm/power-button", test_power_button);
    qtest_add_func("/airlock/pm/timer", test_pm_timer);
    qtest_add_func("/airlock/machine/many-cpus", test_many_cpus);
    qtest_add_func("/airlock/machine/large-memory", test_large_memory);
    qtest_add_func("/airlock/state/load-untrapped", test_load_untrapped);
    qtest_add_func("/airlock/state/bad-streams", test_bad_streams);
    qtest_add_func("/airlock/state/no-migration", test_no_migration);

    return g_test_run();
}
