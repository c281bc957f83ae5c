"""Write DICOM Microscopy Bulk Simple Annotations: outlines and measurements for DICOM viewers.

The standard (DICOM PS3.3, A.87) has polygons without holes, one group per class, and measurements
with coded names. Names that have no code get one of the private scheme 99WSISEG.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.core.errors import DataError
from wsi_pipeline.core.files import part_path
from wsi_pipeline.core.objects import Objects
from wsi_pipeline.core.polygons import arranged
from wsi_pipeline.formats._optional import optional

__all__ = ["write_annotations"]

_log = logging.getLogger(__name__)

_SCHEME = "99WSISEG"
_ROOT = uuid.UUID("6f6a1d1e-6f0c-4f59-9d1c-3c0b7d0f4b55")
"""Namespace of the identifiers; any constant would do."""
_KINDS = {
    "nucleus": ("84640000", "Nucleus"),
    "cell": ("4421005", "Cell"),
    "leukocyte": ("52501007", "Leukocyte"),
}
"""Class → SNOMED CT code and meaning; other classes get a private code."""
_UNITS = (("µm^2", "um2"), ("µm", "um"))
"""End of a measurement's name → unit in UCUM; others have no unit."""


def write_annotations(
    path: Path,
    objects: Objects,
    *,
    width: int,
    height: int,
    mpp: float,
    provenance: Mapping[str, Any] | None = None,
    image: Path | None = None,
) -> None:
    """Write objects as DICOM annotations in the pixels of level 0.

    Each class is a group, in the order of the objects. Holes are filled. Ids are not in the file.

    Parameters
    ----------
    width, height, mpp
        size of the slide in level-0 pixels, and µm per pixel
    provenance
        what a run states of slide and model
    image
        DICOM file of the slide's level 0, to which the annotations then refer. Without it they
        refer to an image with identifiers made from the slide's name, which exists nowhere.

    Raises
    ------
    UsageError
        highdicom is not installed
    DataError
        there is no object, or `image` is not a DICOM slide
    OutputError
        the file cannot be written
    """
    ann = optional("highdicom.ann", "DICOM annotations", "dicom")
    objects = arranged(objects)
    if len(objects) == 0:
        raise DataError(f"{path} would hold no object, which DICOM does not allow")
    slide, name = (_stated(provenance or {}, *key) for key in (("slide", "id"), ("model", "name")))
    source = _read_source(image) if image else _placeholder(slide, width, height, mpp)
    groups = [
        _group(ann, objects.take(objects.class_index == k), number, name)
        for number, k in enumerate(np.unique(objects.class_index), 1)
    ]
    document = ann.MicroscopyBulkSimpleAnnotations(
        source_images=[source],
        annotation_coordinate_type="2D",
        annotation_groups=groups,
        series_instance_uid=_uid(slide, name, "series"),
        series_number=1,
        sop_instance_uid=_uid(slide, name, "instance"),
        instance_number=1,
        manufacturer="wsiseg",
        manufacturer_model_name=name[:64],
        software_versions=version("wsiseg"),
        device_serial_number="0",
        content_description="Objects found by wsiseg; research use, not a medical device",
        content_label="WSISEG",
    )
    with part_path(path) as part:
        document.save_as(part)


def _stated(provenance: Mapping[str, Any], key: str, name: str) -> str:
    """Return the name of slide or model; files of other software may state neither."""
    about = provenance.get(key)
    return str(about.get(name, "unknown")) if isinstance(about, Mapping) else "unknown"


def _uid(*parts: str) -> str:
    """Return an identifier that is the same in every export."""
    return f"2.25.{uuid.uuid5(_ROOT, '/'.join(parts)).int}"


def _code(value: str, meaning: str, scheme: str) -> Any:
    coding = optional("pydicom.sr.coding", "DICOM annotations", "dicom")
    return coding.Code(value, scheme, meaning)


def _group(ann: Any, objects: Objects, number: int, model: str) -> Any:
    """Return the annotations of one class."""
    highdicom = optional("highdicom", "DICOM annotations", "dicom")
    name = objects.classes[int(objects.class_index[0])]
    private = (f"C{number:03}", name[:64])
    value, meaning = _KINDS.get(name, private)
    kind = _code(value, meaning, "SCT" if name in _KINDS else _SCHEME)
    holes = int((np.diff(objects.object_offsets) - 1).sum())
    if holes:
        _log.warning("%d holes of class %s are filled: DICOM annotations have none", holes, name)
    return ann.AnnotationGroup(
        number=number,
        uid=_uid(model, name, str(objects.ids[0].tolist()), str(len(objects))),
        label=name[:64],
        annotated_property_category=_code("91723000", "Anatomical structure", "SCT"),
        annotated_property_type=kind,
        graphic_type="POLYGON",
        graphic_data=_shells(objects),
        algorithm_type="AUTOMATIC",
        algorithm_identification=highdicom.AlgorithmIdentificationSequence(
            name=f"wsiseg {model}"[:64],
            family=_code("123110", "Artificial Intelligence", "DCM"),
            version=version("wsiseg"),
        ),
        measurements=_measurements(ann, objects),
    )


def _shells(objects: Objects) -> Sequence[NDArray[np.float64]]:
    """Return the outer ring of each object, (vertices, 2), without the repeated last vertex."""
    first = objects.object_offsets[:-1]
    starts, ends = objects.ring_offsets[first], objects.ring_offsets[first + 1]
    return [objects.coords[a : b - 1] for a, b in zip(starts, ends, strict=True)]


def _measurements(ann: Any, objects: Objects) -> list[Any]:
    """Return score and measurements; those without any value are left out."""
    named = {"score": objects.score, **objects.features}
    found = []
    for number, (name, values) in enumerate(named.items()):
        if not np.isfinite(values).any():
            continue
        unit = next((ucum for end, ucum in _UNITS if name.endswith(end)), "1")
        meaning = "no units" if unit == "1" else unit
        finite = np.where(np.isfinite(values), values, np.nan).astype(np.float32)
        found.append(ann.Measurements(
            name=_code(f"M{number:03}", name[:64], _SCHEME), values=finite,
            unit=_code(unit, meaning, "UCUM"),
        ))  # fmt: skip
    return found


def _read_source(image: Path) -> Any:
    """Read the header of the slide's DICOM file."""
    pydicom = optional("pydicom", "DICOM annotations", "dicom")
    try:
        source = pydicom.dcmread(image, stop_before_pixels=True)
        tiled = source.SOPClassUID == "1.2.840.10008.5.1.4.1.1.77.1.6"
    except (OSError, AttributeError, pydicom.errors.InvalidDicomError):
        tiled = False
    if not tiled:
        raise DataError(
            f"{image} is no DICOM slide; leave --image out, the annotations then state the "
            "slide by its name only"
        )
    return source


def _placeholder(slide: str, width: int, height: int, mpp: float) -> Any:
    """Return the header of an image that does not exist as DICOM."""
    pydicom = optional("pydicom", "DICOM annotations", "dicom")
    source = pydicom.Dataset()
    source.file_meta = pydicom.dataset.FileMetaDataset()
    source.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    source.SOPClassUID = "1.2.840.10008.5.1.4.1.1.77.1.6"  # VL whole slide microscopy image
    for name in ("SOPInstance", "StudyInstance", "SeriesInstance", "FrameOfReference"):
        setattr(source, f"{name}UID", _uid(slide, name))
    for name in ("PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID",
                 "StudyDate", "StudyTime", "ReferringPhysicianName"):  # fmt: skip
        setattr(source, name, "")
    source.PatientID = slide[:64]
    source.Modality = "SM"
    source.ContainerIdentifier = slide[:64]
    source.TotalPixelMatrixColumns, source.TotalPixelMatrixRows = width, height
    source.ImagedVolumeWidth, source.ImagedVolumeHeight = width * mpp / 1000, height * mpp / 1000
    return source
