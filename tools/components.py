"""What a program was made of: what it links, the Debian packages and Swift packages of that, and their licences. tools/image
and tools/package are made of it.
"""
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def fail(text):
    sys.exit(f"tools/{os.path.basename(sys.argv[0])}: {text}")


def run(*command, **options):
    """What a command prints; its failure is ours."""
    result = subprocess.run(command, capture_output=True, text=True, **options)
    if result.returncode != 0:
        fail(f"{' '.join(command)}: {result.stderr.strip() or result.stdout.strip()}")
    return result.stdout


def read(path):
    with open(path, "rb") as file:
        return file.read()


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def linked(path):
    """The shared objects that the loader brings for a program, by the name it is asked for; the loader itself by its path."""
    result = subprocess.run(["ldd", path], capture_output=True, text=True)
    if "not a dynamic executable" in result.stderr + result.stdout or "statically linked" in result.stdout:
        return {}
    if result.returncode != 0:
        fail(f"ldd {path}: {result.stderr.strip()}")
    found = {}
    for line in result.stdout.splitlines():
        words = line.split()
        if "not found" in line:
            fail(f"{path} needs {words[0]}, which is not on this machine")
        if "=>" in line:
            found[words[0]] = words[2]
        elif words[0].startswith("/"):
            found[words[0]] = words[0]
    return found


def stripped(path):
    """The bytes of a program or library without symbols and debug information."""
    with tempfile.TemporaryDirectory() as folder:
        copy = os.path.join(folder, "copy")
        shutil.copy(path, copy)
        os.chmod(copy, 0o755)
        kind = ["--strip-unneeded"] if ".so" in os.path.basename(path) else ["--strip-all"]
        run("strip", *kind, copy)
        return read(copy)


class Debian:
    """Which Debian package a file of this machine is from, and its licence."""

    def __init__(self):
        self.packages = {}

    def of(self, path):
        """The package's name, or None. /lib is /usr/lib on today's Debian, but its database says either."""
        real = os.path.realpath(path)
        names = [path, real] + [p[4:] for p in (path, real) if p.startswith("/usr/lib")]
        for name in names:
            if not shutil.which("dpkg-query"):
                return None
            result = subprocess.run(["dpkg-query", "-S", name], capture_output=True, text=True)
            if result.returncode == 0:
                package = result.stdout.split(": ")[0].split(",")[0]
                if package not in self.packages:
                    version = run("dpkg-query", "-W", "-f", "${source:Package} ${Version}", package)
                    self.packages[package] = version.split(" ")
                return package
        return None


def swift_packages(link_lists, checkouts, state):
    """The Swift packages whose modules a program was linked from: name to version, address and folder."""
    modules = set()
    for path in link_lists:
        modules |= set(re.findall(r"/([^/\n]+)\.build/", read(path).decode()))
    pins = {}
    for dependency in json.loads(read(state))["object"]["dependencies"]:
        checkout = dependency["state"].get("checkoutState", {})
        pins[dependency["subpath"]] = (
            checkout.get("version") or checkout.get("revision", ""), dependency["packageRef"]["location"])
    found = {}
    for package in sorted(os.listdir(checkouts)):
        folder = os.path.join(checkouts, package)
        if package in pins and any(modules & set(names) for _, names, _ in os.walk(os.path.join(folder, "Sources"))):
            found[package] = (*pins[package], folder)
    return found


def licence_kind(text):
    """The SPDX name of a licence text, as far as its words tell."""
    for words, name in [("Runtime Library Exception", "Apache-2.0 WITH Swift-exception"), ("Apache License", "Apache-2.0"),
                        ("Permission is hereby granted, free of charge", "MIT")]:
        if words in text:
            return name
    return "NOASSERTION"


def swift_version():
    """The toolchain's folder and release."""
    path = shutil.which("swift") or fail("there is no swift in PATH")
    return os.path.dirname(os.path.dirname(os.path.realpath(path))), re.search(r"Swift version (\S+)", run("swift", "--version"))[1]


def commit_and_time():
    """The commit of the checkout and the time of it, or SOURCE_DATE_EPOCH, in seconds since 1970."""
    commit = run("git", "-C", ROOT, "rev-parse", "HEAD").strip()
    return commit, int(os.environ.get("SOURCE_DATE_EPOCH") or run("git", "-C", ROOT, "show", "-s", "--format=%ct", "HEAD"))


def release():
    """twill's release, as the program says it."""
    return re.search(r'text = "([^"]+)"', read(os.path.join(ROOT, "Sources/NodeDaemon/Version.swift")).decode())[1]


def licence_files(folder):
    """The licence and the notices of a package of Swift."""
    return [os.path.join(folder, f) for f in sorted(os.listdir(folder)) if re.match(r"LICEN|NOTICE", f)]
