//! The classes and functions of Python that files of weights mention.

/// Whether files of weights have use for a class or function of this name.
pub(super) fn allowed(module: &str, name: &str) -> bool {
    let known = |names: &[&str]| names.contains(&name);
    match module {
        "torch" => {
            name.ends_with("Storage")
                || known(&["Size", "device", "dtype", "float16", "float32", "float64", "bfloat16"])
                || known(&["uint8", "int8", "int16", "int32", "int64", "bool"])
        }
        "torch.storage" => name.ends_with("Storage"),
        "torch._utils" => known(&["_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_parameter"]),
        "torch.nn.parameter" => known(&["Parameter"]),
        "torch.serialization" => known(&["_get_layout"]),
        "collections" => known(&["OrderedDict", "defaultdict", "Counter"]),
        "argparse" => known(&["Namespace"]),
        "pathlib" | "pathlib._local" => name.ends_with("Path"),
        "_codecs" => known(&["encode"]),
        "builtins" | "__builtin__" => known(&[
            "set",
            "frozenset",
            "slice",
            "complex",
            "bytearray",
            "list",
            "dict",
            "tuple",
            "int",
            "float",
            "str",
            "bool",
            "bytes",
        ]),
        "numpy" => known(&["dtype", "ndarray"]),
        "numpy.core.multiarray" | "numpy._core.multiarray" => known(&["scalar", "_reconstruct"]),
        _ => false,
    }
}
