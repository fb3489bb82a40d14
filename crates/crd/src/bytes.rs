//! Amounts of bytes as users write them.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A whole number of bytes with an optional unit, as Kubernetes writes quantities: `512Mi`, `4Gi`, `1G`, `1048576`.
///
/// Kept as the user wrote it, so that the resource reads back unchanged.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(transparent)]
pub struct ByteSize(String);

impl ByteSize {
    /// Wraps the text; [`ByteSize::bytes`] says whether it is one.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text as the user wrote it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The amount, or `None` if the text is no such amount or passes 2^63 - 1, the largest quantity of Kubernetes.
    #[must_use]
    pub fn bytes(&self) -> Option<u64> {
        let digits = self.0.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = self.0.split_at(digits);
        let factor: u64 = match unit {
            "" => 1,
            "k" => 1_000,
            "M" => 1_000_000,
            "G" => 1_000_000_000,
            "T" => 1_000_000_000_000,
            "Ki" => 1 << 10,
            "Mi" => 1 << 20,
            "Gi" => 1 << 30,
            "Ti" => 1 << 40,
            _ => return None,
        };
        number
            .parse::<u64>()
            .ok()?
            .checked_mul(factor)
            .filter(|bytes| i64::try_from(*bytes).is_ok())
    }

    /// The same amount as a Kubernetes quantity.
    #[must_use]
    pub fn quantity(&self) -> Quantity {
        Quantity(self.0.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::ByteSize;

    #[test]
    fn amounts_are_read_with_decimal_and_binary_units() {
        for (text, bytes) in [
            ("512Mi", 536_870_912),
            ("1G", 1_000_000_000),
            ("42", 42),
            ("3Ti", 3 << 40),
        ] {
            assert_eq!(ByteSize::new(text).bytes(), Some(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_no_amount_or_too_large_is_none() {
        for text in [
            "",
            "Mi",
            "1.5Gi",
            "-1",
            "1 Gi",
            "9999999Ti",
            "99999999999999999999",
            "1Xi",
            "１Gi",
        ] {
            assert_eq!(ByteSize::new(text).bytes(), None, "{text}");
        }
    }
}
