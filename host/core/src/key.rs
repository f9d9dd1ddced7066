//! Keys as text: the order of the texts, byte by byte, is the order of the values.
//!
//! The keys of a plugin's state are text, and a scan returns them in the order of their bytes. A
//! value that is written by these rules is found by a range of values, and a compound value by its
//! first components.
//!
//! A key is a sequence of parts. Each part ends with `!`, and all other characters of a part are
//! greater. So no key is the beginning of another key of the same type. The parts are:
//!
//! | value | part | examples |
//! |---|---|---|
//! | text | its characters; those up to `#` as `#` and two hexadecimal digits | `ada!`, `a#20b!` |
//! | an integer from 0 | a letter for the number of digits (`a` for one), and the digits | `a7!`, `b42!` |
//! | a negative integer | a capital letter (`Y` for one digit), and 9 minus each digit | `Y2!` for -7 |
//! | a `bool` | the word | `false!`, `true!` |
//! | bytes | two hexadecimal digits for each | `00ff!` |
//! | an `Option` | `0` for `None`; `1` in front of the parts of the value | `0!`, `1ada!` |
//!
//! An integer has one text, whatever its type. So a plugin can widen the type of an id, and still
//! finds what it has stored.

use std::fmt::Write as _;

/// The end of a part. It is less than every other character of a key.
const END: char = '!';

/// Greater than [`END`], and less than every other character of a key.
const AFTER_END: char = '"';

/// Introduces an escaped character. Characters up to this one are escaped.
const ESCAPE: char = '#';

/// A value that can be a key of the state, or a part of one: text, an integer of up to 64 bits, a
/// `bool`, bytes, an `Option` of a key, and a tuple of two to four keys. A floating-point number is
/// none, because not all of them have an order.
///
/// A type of your own implements it by the values of which it consists:
///
/// ```
/// use sockhop_core::key::{Key, KeyText, encode_key};
///
/// struct Seat {
///     row: u32,
///     number: u32,
/// }
///
/// impl Key for Seat {
///     fn write(&self, text: &mut KeyText) {
///         (self.row, self.number).write(text);
///     }
/// }
///
/// assert!(encode_key(&Seat { row: 9, number: 1 }) < encode_key(&Seat { row: 10, number: 1 }));
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` can't be a key",
    note = "keys are text, integers, `bool`, bytes, an `Option` of a key, and tuples of up to four \
            keys; another type implements `Key` by these"
)]
pub trait Key {
    /// Appends the parts of the value to `text`.
    fn write(&self, text: &mut KeyText);
}

/// A [`Key`] that can be read back from its text.
pub trait DecodeKey: Key + Sized {
    /// Reads the parts of a value. Returns `None` if they are not the text of such a value.
    fn read(parts: &mut KeyParts<'_>) -> Option<Self>;
}

/// A key of several components, which can be searched by the first of them. To search by more than
/// one, nest tuples: `((a, b), c)` has the same text as `(a, b, c)`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` has no components",
    note = "only tuples can be searched by their first component"
)]
pub trait CompoundKey: Key {
    /// The type of the first component.
    type First: Key;
}

/// The text of a key that is being written.
#[derive(Debug, Default)]
pub struct KeyText(String);

impl KeyText {
    fn end(&mut self) {
        self.0.push(END);
    }
}

/// The parts of a key that is being read.
#[derive(Debug)]
pub struct KeyParts<'a>(&'a str);

impl<'a> KeyParts<'a> {
    /// Removes the next part, without its end.
    fn next(&mut self) -> Option<&'a str> {
        let (part, rest) = self.0.split_once(END)?;
        self.0 = rest;
        Some(part)
    }
}

/// Returns the text of `key`. It is not empty, and has no limit of its length.
pub fn encode_key<K: Key + ?Sized>(key: &K) -> String {
    let mut text = KeyText::default();
    key.write(&mut text);
    text.0
}

/// Returns the value whose [text](encode_key) is `text`, or `None` if there is none.
pub fn decode_key<K: DecodeKey>(text: &str) -> Option<K> {
    let mut parts = KeyParts(text);
    let key = K::read(&mut parts)?;
    parts.0.is_empty().then_some(key)
}

/// Returns a text that is less than each text that begins with the key, and greater than the texts
/// of all lesser keys, whatever follows these.
pub fn before_key<K: Key + ?Sized>(key: &K) -> String {
    let mut text = encode_key(key);
    text.pop();
    text
}

/// Returns a text that is greater than each text that begins with the key, and less than the texts
/// of all greater keys.
pub fn after_key<K: Key + ?Sized>(key: &K) -> String {
    let mut text = before_key(key);
    text.push(AFTER_END);
    text
}

impl<K: Key + ?Sized> Key for &K {
    fn write(&self, text: &mut KeyText) {
        (**self).write(text);
    }
}

impl Key for str {
    fn write(&self, text: &mut KeyText) {
        for character in self.chars() {
            if character > ESCAPE {
                text.0.push(character);
            } else {
                // Writing to a `String` can't fail.
                let _ = write!(text.0, "{ESCAPE}{:02x}", u32::from(character));
            }
        }
        text.end();
    }
}

impl Key for String {
    fn write(&self, text: &mut KeyText) {
        self.as_str().write(text);
    }
}

impl DecodeKey for String {
    fn read(parts: &mut KeyParts<'_>) -> Option<Self> {
        let mut rest = parts.next()?.chars();
        let mut value = Self::new();
        while let Some(character) = rest.next() {
            value.push(match character {
                ESCAPE => {
                    let code = hex_digit(rest.next()?)? * 16 + hex_digit(rest.next()?)?;
                    Some(char::from(code)).filter(|character| *character <= ESCAPE)?
                }
                _ => Some(character).filter(|character| *character > ESCAPE)?,
            });
        }
        Some(value)
    }
}

/// Returns the value of a hexadecimal digit. A key contains only lower-case ones, so that each
/// value has one text.
fn hex_digit(character: char) -> Option<u8> {
    let digit = character.to_digit(16).filter(|_| !character.is_ascii_uppercase())?;
    u8::try_from(digit).ok()
}

impl Key for bool {
    fn write(&self, text: &mut KeyText) {
        text.0.push_str(if *self { "true" } else { "false" });
        text.end();
    }
}

impl DecodeKey for bool {
    fn read(parts: &mut KeyParts<'_>) -> Option<Self> {
        match parts.next()? {
            "false" => Some(false),
            "true" => Some(true),
            _ => None,
        }
    }
}

impl Key for [u8] {
    fn write(&self, text: &mut KeyText) {
        for byte in self {
            let _ = write!(text.0, "{byte:02x}");
        }
        text.end();
    }
}

impl Key for Vec<u8> {
    fn write(&self, text: &mut KeyText) {
        self.as_slice().write(text);
    }
}

impl DecodeKey for Vec<u8> {
    fn read(parts: &mut KeyParts<'_>) -> Option<Self> {
        let mut digits = parts.next()?.chars();
        let mut bytes = Self::new();
        while let Some(high) = digits.next() {
            bytes.push(hex_digit(high)? * 16 + hex_digit(digits.next()?)?);
        }
        Some(bytes)
    }
}

impl<const N: usize> Key for [u8; N] {
    fn write(&self, text: &mut KeyText) {
        self.as_slice().write(text);
    }
}

impl<const N: usize> DecodeKey for [u8; N] {
    fn read(parts: &mut KeyParts<'_>) -> Option<Self> {
        Vec::read(parts)?.try_into().ok()
    }
}

impl<K: Key> Key for Option<K> {
    fn write(&self, text: &mut KeyText) {
        match self {
            None => {
                text.0.push('0');
                text.end();
            }
            Some(key) => {
                text.0.push('1');
                key.write(text);
            }
        }
    }
}

impl<K: DecodeKey> DecodeKey for Option<K> {
    fn read(parts: &mut KeyParts<'_>) -> Option<Self> {
        if let Some(rest) = parts.0.strip_prefix('1') {
            parts.0 = rest;
            return K::read(parts).map(Some);
        }
        (parts.next()? == "0").then_some(None)
    }
}

/// Writes an integer from 0. A longer number has a greater letter, and numbers of the same length
/// are in the order of their digits.
fn write_natural(number: u64, text: &mut KeyText) {
    let digits = number.to_string();
    text.0.push(char::from(b'`'.saturating_add(length(&digits))));
    text.0.push_str(&digits);
    text.end();
}

/// Writes a negative integer, by its distance from 0: the greater it is, the less is the text.
fn write_negative(distance: u64, text: &mut KeyText) {
    let digits = distance.to_string();
    text.0.push(char::from(b'Z'.saturating_sub(length(&digits))));
    text.0.extend(complement(&digits));
    text.end();
}

/// Returns the number of digits, at most 20.
fn length(digits: &str) -> u8 {
    u8::try_from(digits.len()).unwrap_or(u8::MAX)
}

/// Returns 9 minus each digit.
fn complement(digits: &str) -> impl Iterator<Item = char> {
    let digits = digits.bytes();
    digits.map(|digit| char::from(b'9'.saturating_sub(digit.saturating_sub(b'0'))))
}

/// Reads an integer, as a sign and a distance from 0.
fn read_integer(parts: &mut KeyParts<'_>) -> Option<(bool, u64)> {
    let part = parts.next()?;
    let letter = part.chars().next()?;
    let digits = part.strip_prefix(letter)?;
    if !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let is_negative = letter.is_ascii_uppercase();
    let number: u64 = if is_negative {
        complement(digits).collect::<String>().parse().ok()?
    } else {
        digits.parse().ok()?
    };
    // Only the text that is written is read: with the right letter, and without leading zeros.
    let mut written = KeyText::default();
    if is_negative {
        write_negative(number, &mut written);
    } else {
        write_natural(number, &mut written);
    }
    let is_canonical = written.0.strip_suffix(END) == Some(part) && !(is_negative && number == 0);
    is_canonical.then_some((is_negative, number))
}

macro_rules! unsigned_keys {
    ($($integer:ty),*) => {$(
        impl Key for $integer {
            fn write(&self, text: &mut KeyText) {
                write_natural(u64::from(*self), text);
            }
        }

        impl DecodeKey for $integer {
            fn read(parts: &mut KeyParts<'_>) -> Option<Self> {
                let (is_negative, number) = read_integer(parts)?;
                Self::try_from(number).ok().filter(|_| !is_negative)
            }
        }
    )*};
}

macro_rules! signed_keys {
    ($($integer:ty),*) => {$(
        impl Key for $integer {
            fn write(&self, text: &mut KeyText) {
                let number = i64::from(*self);
                if number < 0 {
                    write_negative(number.unsigned_abs(), text);
                } else {
                    write_natural(number.unsigned_abs(), text);
                }
            }
        }

        impl DecodeKey for $integer {
            fn read(parts: &mut KeyParts<'_>) -> Option<Self> {
                let (is_negative, number) = read_integer(parts)?;
                let number = i128::from(number);
                Self::try_from(if is_negative { -number } else { number }).ok()
            }
        }
    )*};
}

unsigned_keys!(u8, u16, u32, u64);
signed_keys!(i8, i16, i32, i64);

macro_rules! tuple_keys {
    ($($first:ident $(, $other:ident)+;)*) => {$(
        impl<$first: Key $(, $other: Key)+> Key for ($first $(, $other)+) {
            fn write(&self, text: &mut KeyText) {
                #[allow(non_snake_case, reason = "one name for the type and its component")]
                let ($first $(, $other)+) = self;
                $first.write(text);
                $($other.write(text);)+
            }
        }

        impl<$first: DecodeKey $(, $other: DecodeKey)+> DecodeKey for ($first $(, $other)+) {
            fn read(parts: &mut KeyParts<'_>) -> Option<Self> {
                Some(($first::read(parts)? $(, $other::read(parts)?)+))
            }
        }

        impl<$first: Key $(, $other: Key)+> CompoundKey for ($first $(, $other)+) {
            type First = $first;
        }
    )*};
}

tuple_keys! {
    A, B;
    A, B, C;
    A, B, C, D;
}

#[cfg(test)]
mod tests {
    use std::fmt::Debug;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_key_is_readable_text() {
        assert_eq!(encode_key("ada"), "ada!");
        assert_eq!(encode_key("a b!#é/\0"), "a#20b#21#23é/#00!");
        assert_eq!(encode_key(""), "!");
        assert_eq!((encode_key(&0_u8), encode_key(&42_u64)), ("a0!".into(), "b42!".into()));
        assert_eq!(encode_key(&u64::MAX), "t18446744073709551615!");
        assert_eq!((encode_key(&-7_i8), encode_key(&-42_i64)), ("Y2!".into(), "X57!".into()));
        assert_eq!(encode_key(&(true, [0_u8, 255], None::<u8>)), "true!00ff!0!");
        assert_eq!(encode_key(&Some(("ada", 7))), "1ada!a7!");
    }

    #[test]
    fn an_integer_has_one_text_whatever_its_type() {
        let texts = [encode_key(&7_u8), encode_key(&7_i16), encode_key(&7_u32), encode_key(&7_i64)];
        assert!(texts.iter().all(|text| *text == encode_key(&7_u64)), "{texts:?}");
        assert_eq!(decode_key::<i64>(&encode_key(&-7_i8)), Some(-7));
    }

    #[test]
    fn a_text_that_no_value_has_is_not_read() {
        for text in ["", "ada", "a#2!", "a#41!", "a#2G!", "a b!", "ada!x", "#1F!"] {
            assert_eq!(decode_key::<String>(text), None, "{text}");
        }
        for text in ["7!", "b7!", "b07!", "a77!", "a!", "Z9!", "Y9!", "a+7!", "", "é7!", "v0!"] {
            assert_eq!(decode_key::<i64>(text), None, "{text}");
        }
        assert_eq!(decode_key::<u8>(&encode_key(&256_u16)), None);
        assert_eq!(decode_key::<u8>(&encode_key(&-1_i8)), None);
        assert_eq!(decode_key::<bool>("yes!"), None);
        assert_eq!(decode_key::<Vec<u8>>("0A!"), None);
        assert_eq!(decode_key::<[u8; 2]>("0a!"), None);
        assert_eq!(decode_key::<Option<u8>>("2!"), None);
    }

    /// What has to hold for two keys: their order, the way back, and the bounds of ranges.
    fn check<K: DecodeKey + Ord + Debug>(a: &K, b: &K) -> Result<(), TestCaseError> {
        let (text_a, text_b) = (encode_key(a), encode_key(b));
        prop_assert_eq!(text_a.cmp(&text_b), a.cmp(b), "{} {}", &text_a, &text_b);
        let decoded = decode_key::<K>(&text_a);
        prop_assert_eq!(decoded.as_ref(), Some(a));
        for rest in ["", "!", "~", "\u{10ffff}"] {
            let longer = format!("{text_a}{rest}");
            prop_assert_eq!(longer > before_key(b), a >= b);
            prop_assert_eq!(longer > after_key(b), a > b);
            prop_assert_ne!(longer, before_key(b));
        }
        Ok(())
    }

    /// Text in which many characters are escaped, or stand beside an escaped one in the order.
    fn text() -> impl Strategy<Value = String> {
        let near = proptest::sample::select(vec!['\0', ' ', '!', '"', '#', '$', 'a', 'b', '~']);
        let character = prop_oneof![4 => near, 1 => any::<char>()];
        proptest::collection::vec(character, 0..6).prop_map(|all| all.into_iter().collect())
    }

    /// Integers of all lengths.
    fn signed() -> impl Strategy<Value = i64> {
        (any::<i64>(), 0..64_u32).prop_map(|(number, shift)| number >> shift)
    }

    fn unsigned() -> impl Strategy<Value = u64> {
        (any::<u64>(), 0..64_u32).prop_map(|(number, shift)| number >> shift)
    }

    proptest! {
        #[test]
        fn the_order_of_texts_is_the_order_of_values(
            a in (text(), signed(), unsigned(), any::<bool>()),
            b in (text(), signed(), unsigned(), any::<bool>()),
            bytes_a in proptest::collection::vec(any::<u8>(), 0..4),
            bytes_b in proptest::collection::vec(any::<u8>(), 0..4),
        ) {
            check(&a.0, &b.0)?;
            check(&a.1, &b.1)?;
            check(&a.2, &b.2)?;
            check(&a.3, &b.3)?;
            check(&bytes_a, &bytes_b)?;
            check(&[a.3 as u8, 7], &[b.3 as u8, 7])?;
            check(&(a.0.clone(), a.1), &(b.0.clone(), b.1))?;
            check(&(a.3, bytes_a.clone(), a.2), &(b.3, bytes_b.clone(), b.2))?;
            check(&((a.3, a.0.clone()), a.1), &((b.3, b.0.clone()), b.1))?;
            let option = |(text, number, _, is_some): (String, i64, u64, bool)| {
                (is_some.then_some((text, number)), number)
            };
            check(&option(a.clone()), &option(b.clone()))?;
            check(&a, &b)?;
        }

        /// Neighbours in the order are rare among random values.
        #[test]
        fn the_order_of_near_values_is_kept(text in text(), more in text(), number in signed()) {
            check(&text, &format!("{text}{more}"))?;
            check(&(text.clone(), more.clone()), &(format!("{text}{more}"), String::new()))?;
            check(&number, &number.saturating_add(1))?;
            check(&(number.unsigned_abs()), &(number.unsigned_abs() + 1))?;
        }

        #[test]
        fn random_text_is_read_only_if_it_is_written_again(random in "[a-cX-Z0-9#!]{0,8}") {
            if let Some(key) = decode_key::<(String, Option<i64>)>(&random) {
                prop_assert_eq!(encode_key(&key), random.clone());
            }
            if let Some(key) = decode_key::<i64>(&random) {
                prop_assert_eq!(encode_key(&key), random);
            }
        }
    }
}
