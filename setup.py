"""What setup.cfg cannot say: the folder `experiments` at the top is installed inside the package.

So experiments stay where people read and edit them, and an installed package finds them without any variable. All the
rest of the metadata is in setup.cfg.
"""

from setuptools import find_namespace_packages, setup

setup(
    packages=[*find_namespace_packages(include=["basereward*"]), "basereward.experiments"],
    package_dir={"basereward.experiments": "experiments"},
)
