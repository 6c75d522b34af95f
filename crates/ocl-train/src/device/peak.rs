//! What a GPU can do, for the share of it that a run uses.

use std::process::Command;

use ocl_model::Precision;

/// Dense peaks in TFLOP a second: f32 without tensor cores, and TF32. Source: the makers' data
/// sheets, in all of which products of bf16 run at twice TF32. The first name that a device's name
/// contains counts.
const PEAKS: [(&str, f64, f64); 9] = [
    ("H200", 67.0, 495.0),
    ("H100 PCIe", 51.0, 378.0),
    ("H100", 67.0, 495.0),
    ("GH200", 67.0, 495.0),
    ("A100", 19.5, 156.0),
    ("L40S", 91.6, 183.0),
    ("L4", 30.3, 60.0),
    ("RTX 4090", 82.6, 82.6),
    ("RTX 3090", 35.6, 35.6),
];

/// The peak of the first NVIDIA GPU, if its driver's program names one that is known.
pub(crate) fn peak_tflops(precision: Precision) -> Option<f64> {
    let query = ["--query-gpu=name", "--format=csv,noheader", "--id=0"];
    let output = Command::new("nvidia-smi").args(query).output().ok()?;
    known(&String::from_utf8(output.stdout).ok()?, precision)
}

fn known(name: &str, precision: Precision) -> Option<f64> {
    let (_, f32, tf32) = PEAKS.iter().find(|(part, ..)| name.contains(part))?;
    Some(match precision {
        Precision::F32 => *f32,
        Precision::Tf32 => *tf32,
        Precision::Bf16 => 2.0 * tf32,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_detected() {
        assert_eq!(known("NVIDIA A100-SXM4-80GB", Precision::F32), Some(19.5));
        assert_eq!(known("NVIDIA A100-SXM4-80GB", Precision::Tf32), Some(156.0));
        assert_eq!(known("NVIDIA A100-SXM4-80GB", Precision::Bf16), Some(312.0));
        assert_eq!(known("NVIDIA H100 PCIe", Precision::Tf32), Some(378.0));
        assert_eq!(known("NVIDIA L40S", Precision::Tf32), Some(183.0));
        assert_eq!(known("llvmpipe", Precision::F32), None);
    }
}
