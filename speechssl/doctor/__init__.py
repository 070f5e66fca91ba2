"""The manifest doctor: decodes what manifests list and says what is wrong with it. Changes and deletes nothing."""

from speechssl.doctor.check import RESULTS, Report, check_manifests, in_crew
from speechssl.doctor.findings import FINDINGS, Finding
from speechssl.doctor.repair import Repaired, describe_repaired, write_repaired
from speechssl.doctor.report import summarise, write_table
from speechssl.doctor.thresholds import CheckConfig

__all__ = [
    "FINDINGS",
    "RESULTS",
    "CheckConfig",
    "Finding",
    "Repaired",
    "Report",
    "check_manifests",
    "describe_repaired",
    "in_crew",
    "summarise",
    "write_repaired",
    "write_table",
]
