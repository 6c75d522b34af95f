//! Several pieces of bytes in one.

/// Words one after the other, the length of each before it.
pub(crate) fn pack<W: AsRef<[u8]>>(words: impl IntoIterator<Item = W>) -> Vec<u8> {
    let mut bytes = vec![];
    for word in words {
        let word = word.as_ref();
        bytes.extend_from_slice(&(word.len() as u64).to_le_bytes());
        bytes.extend_from_slice(word);
    }
    bytes
}

/// What [`pack`] was given.
///
/// # Panics
/// If the bytes are something else.
pub(crate) fn unpack(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut words = vec![];
    while let Some((length, rest)) = bytes.split_first_chunk::<8>() {
        let (word, behind) = rest.split_at(u64::from_le_bytes(*length) as usize);
        words.push(word.to_vec());
        bytes = behind;
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_come_back() {
        for words in [vec![], vec![vec![]], vec![vec![1u8, 2], vec![], vec![0; 9]]] {
            assert_eq!(unpack(&pack(&words)), words);
        }
    }
}
