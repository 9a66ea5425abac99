"""Packages of Node.js for hosts: installed from their lock files, once for each change of these."""

import fcntl
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

from tools.hosts.task import NotHereError

__all__ = ["EXAMPLES", "built_page", "installed", "node", "run_json"]

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
_MINUTES = 10


def node() -> str:
    """The command of Node.js. Raises NotHereError where there is none, or one that is too old."""
    found = shutil.which("node")
    if found is None or shutil.which("npm") is None:
        raise NotHereError("Node.js 20 or newer with npm is not installed")
    version = subprocess.run([found, "--version"], check=True, capture_output=True, text=True).stdout.strip()
    if int(version.removeprefix("v").split(".")[0]) < 20:
        raise NotHereError(f"Node.js {version} is too old; install 20 or newer")
    return found


def installed(package: Path) -> Path:
    """Return `package`, a directory with package-lock.json, after `npm ci` where its packages are not there.

    Processes wait for one another. Raises NotHereError where they cannot be installed.
    """
    node()
    lock, mark = package / "package-lock.json", package / "node_modules" / ".installed"
    with open(package / "package.json") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        if mark.is_file() and mark.read_bytes() == lock.read_bytes():
            return package
        command = ["npm", "ci", "--no-audit", "--no-fund", "--loglevel=error"]
        done = subprocess.run(command, cwd=package, check=False, capture_output=True, text=True, timeout=60 * _MINUTES)
        if done.returncode:
            reason = next((line for line in done.stderr.splitlines() if line.strip()), "no message")
            raise NotHereError(f"npm ci in {package.name} failed ({reason}); it needs the npm registry once")
        mark.write_bytes(lock.read_bytes())
    return package


def built_page() -> Path:
    """The page of examples/web as files for a server. Raises NotHereError as `installed` does."""
    web = installed(EXAMPLES / "web")
    with open(web / "build.js") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        subprocess.run([node(), web / "build.js"], check=True, capture_output=True)
    return web / "dist"


def run_json(*command: object) -> dict[str, Any]:
    """The JSON object that a script of Node.js prints last. Raises RuntimeError with its message where it fails."""
    done = subprocess.run([node(), *map(str, command)], check=False, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr.strip() or f"{command[0]} ended with exit code {done.returncode}")
    return json.loads(done.stdout.splitlines()[-1])
