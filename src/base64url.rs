//! Base64 for URLs and cookies, without padding (RFC 4648, section 5).

/// Encodes bytes.
pub(crate) fn encode(bytes: &[u8]) -> String {
    let text = openssl::base64::encode_block(bytes);
    text.trim_end_matches('=').replace('+', "-").replace('/', "_")
}

/// Decodes a text. `None` if [`encode`] does not make it.
pub(crate) fn decode(text: &str) -> Option<Vec<u8>> {
    let mut padded = text.replace('-', "+").replace('_', "/");
    padded.extend(std::iter::repeat_n('=', (4 - text.len() % 4) % 4));
    let bytes = openssl::base64::decode_block(&padded).ok()?;
    (encode(&bytes) == text).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn it_is_the_one_of_the_standard() {
        for (bytes, text) in [
            (&b""[..], ""),
            (b"f", "Zg"),
            (b"on", "b24"),
            (b"foobar", "Zm9vYmFy"),
            (b"\xfb\xff", "-_8"),
        ] {
            assert_eq!(encode(bytes), text);
            assert_eq!(decode(text).as_deref(), Some(bytes));
        }
        for wrong in ["Zg==", "Zh", "Z", "Zm9vYmFy\n", " Zg", "+/8", "=", "é"] {
            assert_eq!(decode(wrong), None, "{wrong:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_encoded_comes_back(bytes: Vec<u8>) {
            prop_assert_eq!(decode(&encode(&bytes)), Some(bytes));
        }

        #[test]
        fn no_text_panics(text: String) {
            let _ = decode(&text);
        }
    }
}
