"""What a run writes for QuPath beside its objects: where it looked, and a script that imports."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import shapely

from wsi_pipeline.core.records import RegionFailure
from wsi_pipeline.core.run_layout import FOREGROUND, GEOJSON, RUN_JSON
from wsi_pipeline.formats.geojson import annotation_document
from wsi_pipeline.runs.work_plan import WorkPlan
from wsi_pipeline.slides.slide import Slide

__all__ = ["OURS", "foreground_document", "groovy_text", "import_script"]

OURS = "wsiseg: "
"""The script gives what it imports names that begin so; a later import clears what has one."""
_ESCAPES = {"\\": r"\\", "'": r"\'", "\n": r"\n", "\r": r"\r", "\t": r"\t"}
CAUSE = 200
"""Characters of the cause in the name of an annotation."""


def foreground_document(slide: Slide, plan: WorkPlan, failures: Sequence[RegionFailure]) -> bytes:
    """Return foreground, region of interest and unreadable parts as locked annotations, GeoJSON.

    The outline of the foreground runs along the pixels of its mask, so its area is exactly what
    the run used. With a region of interest it is the foreground in the pixels that this meets.
    """
    whole = shapely.box(0, 0, slide.width, slide.height)
    found: list[tuple[shapely.Geometry, str, str]] = []
    parts = plan.foreground.polygons()
    if parts:
        found.append((shapely.MultiPolygon(parts), "foreground", "Foreground"))
    if plan.object_filter.roi is not None:
        roi = shapely.intersection(plan.object_filter.roi, whole)
        found.append((roi, "region of interest", "Region of interest"))
    for failure in failures:
        boxes = failure.get("missing") or [failure["level0_box"]]
        area = shapely.union_all([shapely.box(*box) for box in boxes])
        cause = " ".join(failure["cause"].split())[:CAUSE]
        name = f"unreadable, region {failure['region']}: {cause}"
        found.append((shapely.intersection(area, whole), name, "Unreadable"))
    return annotation_document(
        [area for area, _, _ in found],
        [f"{OURS}{name}" for _, name, _ in found],
        classes=[kind for _, _, kind in found],
    )


def groovy_text(text: str) -> str:
    r"""Return a Groovy string in single quotes, in ASCII: nothing in it is interpolated.

    Examples
    --------
    >>> print(groovy_text("C:\\Müller's $lides"))
    'C:\\M\u00fcller\'s $lides'
    """
    units = text.encode("utf-16-be", "surrogatepass")
    found = []
    for high, low in zip(units[::2], units[1::2], strict=True):
        code = high << 8 | low
        plain = chr(code) if 32 <= code < 127 else f"\\u{code:04x}"
        found.append(_ESCAPES.get(chr(code), plain))
    return f"'{''.join(found)}'"


def import_script(out: Path, model_folder: str) -> bytes:
    """Return a script for QuPath that imports runs: of one image, or of a whole project.

    Parameters
    ----------
    out
        folder with the folders of the slides
    model_folder
        name of the run's folder in that of a slide
    """
    values = {
        "@OUT@": groovy_text(str(out.resolve())),
        "@MODEL@": groovy_text(model_folder),
        "@OURS@": groovy_text(OURS),
        "@RUN_JSON@": groovy_text(RUN_JSON),
        "@OBJECTS@": groovy_text(GEOJSON),
        "@FOREGROUND@": groovy_text(FOREGROUND),
    }
    text = SCRIPT
    for mark, value in values.items():
        text = text.replace(mark, value)
    return text.encode("ascii")


SCRIPT = r"""// Imports the results of wsiseg into QuPath 0.4 or later.
//
// One image: open it, open this file in Automate > Script editor, Run.
// A whole project: in the script editor, Run > Run for project.
//
// It removes what an earlier import by this script made, and nothing of your own: detections that
// are named "wsiseg: " and the model, or have the id of one that comes now, and locked annotations
// whose name begins with "wsiseg: ". Then it imports, sets the pixel size if the run got one by
// --mpp, and resolves the hierarchy. It needs 3 GB of memory per 100 000 cells.

import groovy.json.JsonSlurper
import qupath.lib.io.PathIO

// The folder that holds one folder for each slide. Change it if you moved the results.
def results = new File(@OUT@)
// The folder in that of a slide, one for each model.
def model = @MODEL@
// Import also where wsiseg looked, as locked annotations.
def withForeground = true

def ours = @OURS@
def server = getCurrentServer()
if (server == null) {
    println 'wsiseg: open an image first'
    return
}
def fileName = server.getURIs().isEmpty() ? '' :
    new File(server.getURIs().iterator().next().getPath() ?: '').getName()

// The run of this slide: first in the folder that has its name, else in any.
def isOfSlide = { folder ->
    def file = new File(folder, @RUN_JSON@)
    if (!file.isFile()) {
        return false
    }
    def slide = new JsonSlurper().parse(file, 'UTF-8').slide
    // A DICOM slide has several files, of which QuPath opened any.
    slide.file == fileName || (slide.files ?: []).contains(fileName)
}
def stem = fileName
def candidates = []
while (stem.contains('.')) {
    stem = stem.substring(0, stem.lastIndexOf('.'))
    candidates << new File(new File(results, stem), model)
}
def folder = candidates.find { isOfSlide(it) }
if (folder == null) {
    folder = (results.listFiles() ?: []).collect { new File(it, model) }.find { isOfSlide(it) }
}
if (folder == null) {
    println 'wsiseg: no finished run of ' + fileName + ' with ' + model + ' in ' + results
    return
}
def run = new JsonSlurper().parse(new File(folder, @RUN_JSON@), 'UTF-8')
if (server.getWidth() != run.slide.width || server.getHeight() != run.slide.height) {
    println 'wsiseg: ' + fileName + ' has ' + server.getWidth() + ' x ' + server.getHeight() +
        ' pixels here and ' + run.slide.width + ' x ' + run.slide.height +
        ' in the run, so nothing is imported. Was it run with --no-crop or --series?'
    return
}

def objects = new ArrayList(PathIO.readObjects(new File(folder, @OBJECTS@).toPath()))
objects.each { it.setName(ours + model) }
def areas = new File(folder, @FOREGROUND@)
if (withForeground && areas.isFile()) {
    objects.addAll(PathIO.readObjects(areas.toPath()))
}

def ids = objects.collect { it.getID() } as Set
def hierarchy = getCurrentHierarchy()
def earlier = hierarchy.getFlattenedObjectList(null).findAll {
    def name = it.getName() ?: ''
    (it.isDetection() && (name == ours + model || ids.contains(it.getID()))) ||
        (it.isAnnotation() && it.isLocked() && name.startsWith(ours))
}
hierarchy.removeObjects(earlier, true)

// A pixel size that the file states, QuPath has already.
if (run.slide.mpp.source in ['--mpp', 'slide sheet'] ||
        !server.getPixelCalibration().hasPixelSizeMicrons()) {
    setPixelSizeMicrons(run.slide.mpp.x as double, run.slide.mpp.y as double)
}
hierarchy.addObjects(objects)
resolveHierarchy()
fireHierarchyUpdate()
println 'wsiseg: ' + objects.size() + ' objects from ' + folder + ', ' + earlier.size() +
    ' of an earlier import removed'
"""
