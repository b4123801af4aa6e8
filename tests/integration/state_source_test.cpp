#include "common/error.hpp"
#include "state_source.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace airlock::test
{
namespace
{

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Key;
using testing::Pair;

const std::string device = R"(
/* A device; VMSTATE_UINT8(comment, X) */
#include "qemu/osdep.h"

#define LENGTH 4
#define UNUSED 5
#define ADD(x) \
    do { \
        total += (x); \
    } while (0)

typedef struct Device {
    uint8_t a[LENGTH];
} Device;

static bool needed(void *opaque)
{
    return ((Device *)opaque)->a[0] != '}'; // "not here {"
}

static const char *text = "{ /* no comment";

static void work(Device *d)
{
#ifdef CONFIG_KVM
    if (kvm_enabled()) {
#else
    if (1) {
#endif
        ADD(1);
    }
}

static const VMStateDescription vmstate_device = {
    .name = "device",
    .needed = needed,
    .fields = (const VMStateField[]) {
        VMSTATE_UINT8_ARRAY(a, Device, LENGTH),
#ifdef CONFIG_KVM
        VMSTATE_UINT8(b, Device),
#endif
        VMSTATE_END_OF_LIST()
    },
};

static void save_by_hand(DeviceState *d, QEMUFile *f)
{
    qemu_put_byte(f, 1);
}

static void class_init(ObjectClass *klass, void *data)
{
    DEVICE_CLASS(klass)->vmsd = &vmstate_device;
}

type_init(register_types)
)";

/** The device with one text instead of another. */
std::string changed(const std::string& from, const std::string& to)
{
    std::string out = device;
    const std::size_t at = out.find(from);
    EXPECT_NE(at, std::string::npos) << from;
    return out.replace(at, from.size(), to);
}

TEST(Definitions, AreCutAtTheTopLevel)
{
    EXPECT_THAT(definitions(device),
                ElementsAre(Key("ADD"), Key("Device"), Key("LENGTH"),
                            Key("UNUSED"), Key("class_init"), Key("needed"),
                            Key("save_by_hand"), Key("text"), Key("type_init"),
                            Key("vmstate_device"), Key("work")));
}

TEST(Definitions, OfOneNameAreOne)
{
    const auto found = definitions("#ifdef A\nint f(void)\n{\n    return 1;\n}"
                                   "\n#else\nint f(void)\n{\n    return 2;\n}"
                                   "\n#endif\n");
    EXPECT_THAT(found, ElementsAre(Pair("f", "int f(void) { return 1; } "
                                             "int f(void) { return 2; }")));
}

TEST(Definitions, OfASourceThatIsCutShortDoNotHang)
{
    for (std::size_t size = 0; size < device.size(); ++size)
    {
        definitions(device.substr(0, size));
    }
}

TEST(StateDefinitions, AreWhatDecidesAboutBytes)
{
    EXPECT_THAT(stateDefinitions(device),
                ElementsAre(Key("Device"), Key("LENGTH"), Key("needed"),
                            Key("save_by_hand"), Key("vmstate_device")));
    EXPECT_THAT(stateDefinitions("int f(void)\n{\n    return 1;\n}\n"),
                IsEmpty());
}

TEST(StateDefinitions, ChangeWithWhatTheySay)
{
    const Definitions before = stateDefinitions(device);
    for (const auto& [from, to] :
         {std::pair{"LENGTH 4", "LENGTH 5"},
          {"uint8_t a[", "uint16_t a["},
          {"!= '}'", "!= '{'"},
          {"\"device\"", "\"device2\""},
          {"CONFIG_KVM\n        VM", "CONFIG_TCG\n        VM"},
          {"qemu_put_byte(f, 1)", "qemu_put_byte(f, 2)"}})
    {
        EXPECT_NE(stateDefinitions(changed(from, to)), before) << to;
    }
}

TEST(StateDefinitions, DoNotChangeWithAnythingElse)
{
    const Definitions before = stateDefinitions(device);
    for (const auto& [from, to] :
         {std::pair{"A device;", "Another device;"},
          {"// \"not here {\"", ""},
          {"    .needed = needed,\n", "    .needed =\n        needed,\n"},
          {"UNUSED 5", "UNUSED 6"},
          {"total += (x)", "total -= (x)"},
          {"ADD(1)", "ADD(2)"},
          {"->vmsd", "->realize = f; DEVICE_CLASS(klass)->vmsd"},
          {"{ /* no comment", "} // no comment"}})
    {
        EXPECT_EQ(stateDefinitions(changed(from, to)), before) << to;
    }
}

TEST(StateSources, AreReadAsTheyAreWritten)
{
    const StateSources sources = {{"hw/a.c: vmstate_a", "00112233"},
                                  {"switch CONFIG_KVM", "1"}};
    EXPECT_EQ(parseStateSources("# text\n\n" + formatStateSources(sources)),
              sources);
    for (const char* wrong : {"word", "word ", " word"})
    {
        EXPECT_THROW(parseStateSources(wrong), Error) << wrong;
    }
}

TEST(StateSources, DifferByName)
{
    EXPECT_THAT(difference({{"a", "1"}, {"b", "1"}, {"c", "1"}},
                           {{"b", "1"}, {"c", "2"}, {"d", "1"}}),
                ElementsAre("changed  c", "new      d", "gone     a"));
}

TEST(StateSources, OfNoBuildAreAnError)
{
    try
    {
        stateSourcesOf("/nonexistent", "/");
        FAIL() << "there is no such build";
    }
    catch (const Error& error)
    {
        EXPECT_THAT(error.what(), HasSubstr("/nonexistent"));
    }
}

} // namespace
} // namespace airlock::test
