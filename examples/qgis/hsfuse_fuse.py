"""QGIS Processing: fuse PRISMA and Sentinel-2 with the command ``hsfuse``.

Processing toolbox, scripts, "Add script to toolbox". hsfuse may be installed in an environment of its own: the
algorithm calls its command, and shows its progress and its messages.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
from typing import Any

from qgis.core import (
    QgsProcessingAlgorithm,
    QgsProcessingException,
    QgsProcessingParameterDefinition,
    QgsProcessingParameterEnum,
    QgsProcessingParameterExtent,
    QgsProcessingParameterFile,
    QgsProcessingParameterRasterDestination,
    QgsProcessingParameterString,
)

METHODS = ["auto", "glp", "ssrfn-lite", "ssrfn", "cnmf", "gsa", "bicubic"]
QUALITIES = ["standard", "fast", "best", "plain"]


def command_line(program: str, values: dict[str, Any]) -> list[str]:
    """Arguments of ``hsfuse run``."""
    return [
        program, "run", values["hsi"], values["msi"], "-o", values["output"], "--method", values["method"],
        "--quality", values["quality"], "--bands", values["bands"] or "100", "--overwrite", "--json",
        *(["--aoi", values["aoi"], "--aoi-crs", values["aoi_crs"]] if values.get("aoi") else []),
        *shlex.split(values.get("more") or ""),
    ]  # fmt: skip


def percent_of(line: str) -> int | None:
    """Share of the run that a line of hsfuse's progress tells."""
    found = re.match(r"(\d+) % of the run", line)
    return int(found[1]) if found else None


class FusePrismaSentinel2(QgsProcessingAlgorithm):
    """The algorithm in the toolbox."""

    def name(self) -> str:
        """Identifier."""
        return "fuse"

    def displayName(self) -> str:  # noqa: N802 - QGIS's name
        """Name for people."""
        return "Fuse PRISMA and Sentinel-2"

    def group(self) -> str:
        """Group in the toolbox."""
        return "hsfuse"

    def groupId(self) -> str:  # noqa: N802
        """Identifier of the group."""
        return "hsfuse"

    def shortHelpString(self) -> str:  # noqa: N802
        """Text beside the form."""
        return "Makes one georeferenced 10 m hyperspectral cube of a PRISMA and a Sentinel-2 product, with a report."

    def createInstance(self) -> FusePrismaSentinel2:  # noqa: N802
        """Make another one."""
        return FusePrismaSentinel2()

    def initAlgorithm(self, _configuration: dict[str, Any] | None = None) -> None:  # noqa: N802
        """Describe the form."""
        folder = QgsProcessingParameterFile.Folder
        self.addParameter(QgsProcessingParameterFile("HSI", "PRISMA product (.he5 or .zip)"))
        self.addParameter(QgsProcessingParameterFile("MSI", "Sentinel-2 product (.SAFE folder)", behavior=folder))
        self.addParameter(QgsProcessingParameterEnum("METHOD", "Method", METHODS, defaultValue=0))
        self.addParameter(QgsProcessingParameterEnum("QUALITY", "Quality", QUALITIES, defaultValue=0))
        self.addParameter(QgsProcessingParameterString("BANDS", "Bands (a number, or all)", "100"))
        self.addParameter(QgsProcessingParameterExtent("AOI", "Area (whole overlap when empty)", optional=True))
        for name, text, value in (
            ("PROGRAM", "The command hsfuse", shutil.which("hsfuse") or "hsfuse"),
            ("MORE", "More options, as on the command line", ""),
        ):
            parameter = QgsProcessingParameterString(name, text, value, optional=True)
            parameter.setFlags(parameter.flags() | QgsProcessingParameterDefinition.FlagAdvanced)
            self.addParameter(parameter)
        self.addParameter(QgsProcessingParameterRasterDestination("OUTPUT", "Fused cube"))

    def processAlgorithm(self, parameters: dict[str, Any], context: Any, feedback: Any) -> dict[str, Any]:  # noqa: N802
        """Call the command, pass its progress on, return the cube."""
        extent = self.parameterAsExtent(parameters, "AOI", context)
        crs = self.parameterAsExtentCrs(parameters, "AOI", context)
        corners = (extent.xMinimum(), extent.yMinimum(), extent.xMaximum(), extent.yMaximum())
        values = {
            "hsi": self.parameterAsFile(parameters, "HSI", context),
            "msi": self.parameterAsFile(parameters, "MSI", context),
            "output": self.parameterAsOutputLayer(parameters, "OUTPUT", context),
            "method": METHODS[self.parameterAsEnum(parameters, "METHOD", context)],
            "quality": QUALITIES[self.parameterAsEnum(parameters, "QUALITY", context)],
            "bands": self.parameterAsString(parameters, "BANDS", context),
            "aoi": "" if extent.isNull() else ",".join(f"{corner:.9g}" for corner in corners),
            "aoi_crs": crs.authid(),
            "more": self.parameterAsString(parameters, "MORE", context),
        }
        program = self.parameterAsString(parameters, "PROGRAM", context) or "hsfuse"
        # QGIS has paths of its own for Python, which are not those of hsfuse's environment.
        environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONHOME", "PYTHONPATH")}
        process = subprocess.Popen(
            command_line(program, values), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        )
        for line in process.stderr or ():
            percent = percent_of(line)
            if percent is not None:
                feedback.setProgress(percent)
            feedback.pushInfo(line.rstrip())
            if feedback.isCanceled():
                process.terminate()
        answer = (process.stdout.read() if process.stdout else "").strip().splitlines()
        if process.wait() != 0:
            said = json.loads(answer[-1]) if answer else {}
            raise QgsProcessingException(f"{said.get('error', 'hsfuse failed.')} {said.get('hint', '')}")
        return {"OUTPUT": values["output"]}
