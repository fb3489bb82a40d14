//! Which slot a key belongs to.
//!
//! As the Redis Cluster specification has it: CRC16 (the XMODEM variant: polynomial 0x1021, initial value 0, nothing
//! reflected) of the key, or of its hash tag, modulo 16384.

/// How many slots there are.
pub const SLOTS: usize = 16_384;

const TABLE: [u16; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = (byte as u16) << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000 == 0 {
                crc << 1
            } else {
                (crc << 1) ^ 0x1021
            };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
};

fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| {
        (crc << 8) ^ TABLE[usize::from((crc >> 8) as u8 ^ byte)]
    })
}

/// The slot of `key`, below [`SLOTS`].
#[must_use]
pub fn slot_of(key: &[u8]) -> u16 {
    crc16(hash_tag(key).unwrap_or(key)) % SLOTS as u16
}

/// What stands between the first `{` and the first `}` behind it, unless that is nothing.
fn hash_tag(key: &[u8]) -> Option<&[u8]> {
    let open = key.iter().position(|byte| *byte == b'{')?;
    let rest = &key[open + 1..];
    let close = rest.iter().position(|byte| *byte == b'}')?;
    (close > 0).then(|| &rest[..close])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_the_specifications() {
        assert_eq!(crc16(b"123456789"), 0x31C3);
        assert_eq!(crc16(b""), 0);
    }

    #[test]
    fn slots_are_those_that_redis_computes() {
        // From CLUSTER KEYSLOT of redis-server 7.0.
        for (key, slot) in [("foo", 12_182), ("bar", 5_061), ("hello", 866), ("", 0)] {
            assert_eq!(slot_of(key.as_bytes()), slot, "{key}");
        }
    }

    #[test]
    fn a_hash_tag_stands_for_its_key() {
        let same = |left: &str, right: &str| slot_of(left.as_bytes()) == slot_of(right.as_bytes());
        assert!(same("{user1000}.following", "{user1000}.followers"));
        assert!(same("{user1000}.following", "user1000"));
        assert!(same("foo{bar}{zap}", "bar"));
        assert!(same("foo{{bar}}zap", "{bar"));
        // An empty tag is none, and neither is one that does not end.
        assert!(!same("foo{}{bar}", "bar"));
        assert!(!same("foo{bar", "bar"));
        assert!(!same("foo}bar{", "bar"));
    }
}
