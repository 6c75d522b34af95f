//! Tar archives as other programs write them.

use std::fs;
use std::path::Path;

/// An archive, with headers in the form that all programs read.
pub(crate) fn packed(members: &[(String, &[u8])]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, content) in members {
        let mut header = [0u8; 512];
        let mut put =
            |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
        put(0, name);
        put(124, &format!("{:011o}", content.len()));
        put(148, "        0");
        put(257, "ustar  ");
        let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
        header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        bytes.extend(header);
        bytes.extend(*content);
        bytes.resize(bytes.len().div_ceil(512) * 512, 0);
    }
    bytes.extend([0; 1024]);
    bytes
}

/// Writes an archive of these members.
pub(crate) fn tar(path: &Path, members: &[(String, &[u8])]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, packed(members)).unwrap();
}
