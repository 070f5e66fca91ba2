"""The formats of feature files by name."""

from speechssl.features.description import FormatName
from speechssl.features.format import Format
from speechssl.features.hdf5 import Hdf5
from speechssl.features.lhotse import Lhotse
from speechssl.features.npy import Npy
from speechssl.features.parquet import Parquet
from speechssl.features.safetensors import Safetensors
from speechssl.features.shards import Shards
from speechssl.features.zarr import Zarr

__all__ = ["FORMATS"]

FORMATS: dict[FormatName, Format] = {
    "npy": Npy(),
    "safetensors": Safetensors(),
    "shards": Shards(),
    "hdf5": Hdf5(),
    "zarr": Zarr(),
    "parquet": Parquet(),
    "lhotse": Lhotse(),
}
