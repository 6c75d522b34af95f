//! What a GPU can do, for the share of it that a run uses.

use std::process::Command;

use ocl_model::Precision;

/// Dense peak of tensor cores in TFLOP a second for f32 products, which run as TF32. Source: the makers'
/// data sheets, in all of which products of bf16 run at twice that. The first name that a device's name contains counts.
const PEAKS: [(&str, f64); 9] = [
    ("H200", 495.0),
    ("H100 PCIe", 378.0),
    ("H100", 495.0),
    ("GH200", 495.0),
    ("A100", 156.0),
    ("L40S", 183.0),
    ("L4", 60.0),
    ("RTX 4090", 82.6),
    ("RTX 3090", 35.6),
];

/// The peak of the first NVIDIA GPU, if its driver's program names one that is known.
pub(crate) fn peak_tflops(precision: Precision) -> Option<f64> {
    let query = ["--query-gpu=name", "--format=csv,noheader", "--id=0"];
    let output = Command::new("nvidia-smi").args(query).output().ok()?;
    known(&String::from_utf8(output.stdout).ok()?, precision)
}

fn known(name: &str, precision: Precision) -> Option<f64> {
    let times = match precision {
        Precision::F32 => 1.0,
        Precision::Bf16 => 2.0,
    };
    PEAKS.iter().find(|(part, _)| name.contains(part)).map(|(_, peak)| times * peak)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_recognised() {
        assert_eq!(known("NVIDIA A100-SXM4-80GB", Precision::F32), Some(156.0));
        assert_eq!(known("NVIDIA A100-SXM4-80GB", Precision::Bf16), Some(312.0));
        assert_eq!(known("NVIDIA H100 PCIe", Precision::F32), Some(378.0));
        assert_eq!(known("NVIDIA L40S", Precision::F32), Some(183.0));
        assert_eq!(known("llvmpipe", Precision::F32), None);
    }
}
