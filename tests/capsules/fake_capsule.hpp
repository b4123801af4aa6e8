#pragma once

#include "bootsrv/capsule/capsule.hpp"
#include "common/file.hpp"

#include <filesystem>
#include <string>

namespace airlock::capsule::test
{

/** A capsule's directory whose QEMU is a script. */
class FakeCapsule
{
  public:
    explicit FakeCapsule(const std::filesystem::path& directory)
        : directory_(directory)
    {
        std::filesystem::create_directories(directory);
        makeDataDisk(directory / "data.img");
        makeStagingDisk(directory / "staging.img", mebibyte);
        for (const char* name : {"data.tables", "staging.tables", "boot.img"})
        {
            writeFileAtomic(directory / name, Bytes(2 * mebibyte));
        }
        for (const char* name : {pristineVariables, "vars.run"})
        {
            writeFileAtomic(directory / name, Bytes(1024, 0xff));
        }
        std::filesystem::create_directory(directory / "tpm");
    }

    Capsule capsule() const { return Capsule(directory_); }
    const std::filesystem::path& directory() const { return directory_; }

  private:
    std::filesystem::path directory_;
};

/** A program for CapsuleOptions::qemu. */
inline std::filesystem::path script(const std::filesystem::path& file,
                                    const std::string& commands)
{
    writeFileAtomic(file, "#!/bin/sh\n" + commands + "\n");
    std::filesystem::permissions(file,
                                 static_cast<std::filesystem::perms>(0755));
    return file;
}

} // namespace airlock::capsule::test
