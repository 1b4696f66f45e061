"""Packages for a wheel: main.py and sandbox/ of the checkout go inside `imageload`.

site-packages gets one package, `imageload`, and one module, `imgurapi`.
"""

import re
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py


class BuildPy(build_py):
    """Adds the checkout's main.py to the package as `imageload.main`."""

    def find_package_modules(self, package: str, package_dir: str) -> list[tuple[str, str, str]]:
        """(package, module, path) of each module of `package`."""
        found: list[tuple[str, str, str]] = super().find_package_modules(package, package_dir)
        return [*found, (package, "main", "main.py")] if package == "imageload" else found


def description() -> str:
    """The README for a reader without a clone: no picture, no links to files."""
    text = (Path(__file__).parent / "README.md").read_text(encoding="utf-8")
    text = re.sub(r"<picture>.*?</picture>\n\n", "", text, flags=re.DOTALL)
    text = text.replace("In a clone of this\nrepository, type:", "Type:")
    text = text.replace("pip install '.[cli]'", "pip install 'imageload[cli]'")
    return re.sub(r"\[([^\]]+)\]\((?!https?:)[^)]+\)", r"\1", text)


setup(
    long_description=description(),
    long_description_content_type="text/markdown",
    packages=[*find_packages(include=["imageload", "imageload.*"]), "imageload.sandbox"],
    package_dir={"imageload.sandbox": "sandbox"},
    py_modules=["imgurapi"],
    cmdclass={"build_py": BuildPy},
)
