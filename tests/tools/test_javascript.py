"""Files in JavaScript, CSS and HTML are formatted by prettier; lock files name no place to fetch from."""

import json
import subprocess

from tests.support.javascript import ROOT, node, package


def tracked(*patterns: str) -> list[str]:
    done = subprocess.run(["git", "ls-files", *patterns], cwd=ROOT, check=True, capture_output=True, text=True)
    return done.stdout.split()


def test_files_are_formatted():
    prettier = package("tools/browser") / "node_modules" / "prettier" / "bin" / "prettier.cjs"
    files = tracked(*(f"{room}/*.{kind}" for room in ("examples", "tools") for kind in ("js", "css", "html")))
    assert len(files) > 10
    done = subprocess.run([node(), prettier, "--check", *files], cwd=ROOT, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_packages_are_pinned_and_lock_files_name_no_place():
    manifests = tracked("*package.json")
    assert manifests
    for name in manifests:
        manifest = json.loads((ROOT / name).read_text())
        versions = {**manifest.get("dependencies", {}), **manifest.get("devDependencies", {})}
        assert all(version[0].isdigit() for version in versions.values()), name
        packages = json.loads((ROOT / name).with_name("package-lock.json").read_text())["packages"]
        assert not [key for key, value in packages.items() if "resolved" in value], name
        assert all("integrity" in value for key, value in packages.items() if key), name
