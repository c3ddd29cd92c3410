"""Python values as google.protobuf.Value and back: see `runwire.values`."""

from runwire.values import Json, from_struct, from_value, to_struct, to_value

__all__ = ["Json", "from_struct", "from_value", "to_struct", "to_value"]
