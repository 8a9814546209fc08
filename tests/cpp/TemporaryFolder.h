// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <unistd.h>

/// A folder that exists as long as this object does.
class TemporaryFolder
{
public:
    TemporaryFolder()
    {
        std::string name = (std::filesystem::temp_directory_path() / "demon-test-XXXXXX").string();
        path = mkdtemp(name.data());
    }
    ~TemporaryFolder()
    {
        std::error_code ignored;
        std::filesystem::remove_all(path, ignored);
    }
    TemporaryFolder(const TemporaryFolder&) = delete;
    TemporaryFolder& operator=(const TemporaryFolder&) = delete;

    std::filesystem::path operator/(const std::string& name) const { return path / name; }

    std::filesystem::path write(const std::string& name, const std::string& bytes) const
    {
        std::ofstream(path / name, std::ios::binary) << bytes;
        return path / name;
    }

    /// As a credential file must be: nobody else may read it.
    std::filesystem::path writePrivate(const std::string& name, const std::string& bytes) const
    {
        using std::filesystem::perms;
        const std::filesystem::path file = write(name, bytes);
        std::filesystem::permissions(file, perms::owner_read | perms::owner_write);
        return file;
    }

    std::filesystem::path path;
};

/// Gives an environment variable a value as long as this object lives. Before any thread that reads the environment.
class ScopedVariable
{
public:
    ScopedVariable(std::string variable, const std::string& value) : name(std::move(variable))
    {
        const char* const before = std::getenv(name.c_str());
        hadValue = before != nullptr;
        old = hadValue ? before : "";
        setenv(name.c_str(), value.c_str(), 1);
    }
    ~ScopedVariable() { hadValue ? setenv(name.c_str(), old.c_str(), 1) : unsetenv(name.c_str()); }
    ScopedVariable(const ScopedVariable&) = delete;
    ScopedVariable& operator=(const ScopedVariable&) = delete;

private:
    std::string name, old;
    bool hadValue = false;
};
