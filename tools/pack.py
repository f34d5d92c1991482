"""Tell what the registry would be sent: `python tools/pack.py` lists the files; nothing is written or sent.

comfy-cli packs what git tracks and .comfyignore does not name, in gitignore's words (its file_utils.zip_files). Here
git itself reads these words.
"""

from __future__ import annotations

import subprocess

from environment import ROOT


def shipped_files() -> list[str]:
    """List the paths that would be packed, from the checkout's root, with slashes; also those not yet added to git."""
    return sorted({*_git_files("--cached", "--others", "--exclude-standard")} - {*_left_out()})


def not_tracked() -> list[str]:
    """List the shipped paths that git does not track, which comfy-cli would leave out in silence."""
    return sorted({*_git_files("--others", "--exclude-standard")} - {*_left_out()})


def _left_out() -> list[str]:
    return _git_files("--cached", "--others", "--ignored", "--exclude-from=.comfyignore")


def _git_files(*arguments: str) -> list[str]:
    found = subprocess.run(["git", "ls-files", "-z", *arguments], cwd=ROOT, check=True, capture_output=True)
    return [path for path in found.stdout.decode().split("\0") if path and (ROOT / path).is_file()]


def main() -> None:
    """Print each file with its size, what all of them come to, and which of them are not tracked."""
    files = shipped_files()
    sizes = [(ROOT / path).stat().st_size for path in files]
    for path, size in zip(files, sizes, strict=True):
        print(f"{size:>10,}  {path}")
    print(f"{sum(sizes):>10,}  bytes in {len(files)} files")
    for path in not_tracked():
        print(f"not tracked, and so not packed: {path}")


if __name__ == "__main__":
    main()
