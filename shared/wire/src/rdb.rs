//! Redis's serialised form of a string, which DUMP returns and RESTORE takes: the type, the value
//! as in an RDB file, the version of the form (2 bytes, little end first) and a CRC-64 of all of it
//! (8 bytes, little end first).
//!
//! A value is a length and bytes; or a number of 8, 16 or 32 bits; or bytes compressed by LZF,
//! which is read and not written. Strings have had this form since version 1.

use rd_base::room::make_room;

/// The type: a string.
const TYPE_STRING: u8 = 0;
/// The version that is written: that of Redis 5, so that it and all later ones take it.
const VERSION: u16 = 9;
/// The newest version that is read: that of Redis 7.4. The form of strings has never changed.
const VERSION_MAX: u16 = 12;
/// Bytes behind the value.
const FOOTER_BYTES: usize = 10;
/// Longest text of a number that is written as one.
const NUMBER_BYTES_MAX: usize = 11;

/// Why a payload is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestoreError {
    /// Too short, of a newer version, or changed.
    Footer,
    /// The value cannot be made out.
    Format,
    /// It holds a value of another type, of this name.
    Type(&'static str),
    /// The value is longer than allowed.
    TooLong,
    /// There is no memory for the value.
    NoRoom,
}

/// The checksum of Redis: reflected, polynomial 0xad93d23594c935a9, begins at zero.
fn crc64(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |crc, byte| {
        let index = usize::from(crc as u8 ^ byte);
        CRC64.get(index).copied().unwrap_or(0) ^ (crc >> 8)
    })
}

const CRC64: [u64; 256] = {
    let mut table = [0; 256];
    let mut index = 0;
    #[allow(
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        reason = "evaluated when compiled"
    )]
    while index < 256 {
        let mut crc = index as u64;
        let mut bit = 0;
        while bit < 8 {
            let polynomial = if crc & 1 == 1 {
                0x95ac_9329_ac4b_c9b5
            } else {
                0
            };
            crc = crc >> 1 ^ polynomial;
            bit += 1;
        }
        table[index] = crc;
        index += 1;
    }
    table
};

/// The payload of a string; none if there is no memory for it.
pub fn dump(value: &[u8]) -> Option<Vec<u8>> {
    let mut payload = Vec::new();
    payload
        .try_reserve_exact(value.len().saturating_add(20))
        .ok()?;
    payload.push(TYPE_STRING);
    let number = Some(value)
        .filter(|value| value.len() <= NUMBER_BYTES_MAX)
        .and_then(crate::num::parse_i64)
        .and_then(|number| i32::try_from(number).ok());
    match number {
        Some(number) => push_number(&mut payload, number),
        None => {
            push_length(&mut payload, value.len());
            payload.extend_from_slice(value);
        }
    }
    payload.extend_from_slice(&VERSION.to_le_bytes());
    payload.extend_from_slice(&crc64(&payload).to_le_bytes());
    Some(payload)
}

fn push_number(payload: &mut Vec<u8>, number: i32) {
    if let Ok(small) = i8::try_from(number) {
        payload.push(0xC0);
        payload.extend_from_slice(&small.to_le_bytes());
    } else if let Ok(middle) = i16::try_from(number) {
        payload.push(0xC1);
        payload.extend_from_slice(&middle.to_le_bytes());
    } else {
        payload.push(0xC2);
        payload.extend_from_slice(&number.to_le_bytes());
    }
}

fn push_length(payload: &mut Vec<u8>, length: usize) {
    match length {
        0..0x40 => payload.push(length as u8),
        0x40..0x4000 => payload.extend_from_slice(&(length as u16 | 0x4000).to_be_bytes()),
        _ => match u32::try_from(length) {
            Ok(length) => {
                payload.push(0x80);
                payload.extend_from_slice(&length.to_be_bytes());
            }
            Err(_) => {
                payload.push(0x81);
                payload.extend_from_slice(&(length as u64).to_be_bytes());
            }
        },
    }
}

/// The string that a payload holds, if it is not longer than `bytes_max`.
///
/// # Errors
/// See [`RestoreError`].
pub fn restore(payload: &[u8], bytes_max: usize) -> Result<Vec<u8>, RestoreError> {
    let body_bytes = payload.len().checked_sub(FOOTER_BYTES);
    let (body, footer) = body_bytes
        .and_then(|length| payload.split_at_checked(length))
        .ok_or(RestoreError::Footer)?;
    let (version, sum) = footer.split_at_checked(2).ok_or(RestoreError::Footer)?;
    let version = u16::from_le_bytes(version.try_into().map_err(|_| RestoreError::Footer)?);
    let summed = payload.get(..payload.len().saturating_sub(8));
    let is_whole = summed.is_some_and(|summed| crc64(summed).to_le_bytes() == sum);
    if version > VERSION_MAX || !is_whole {
        return Err(RestoreError::Footer);
    }
    match body.split_first() {
        Some((&TYPE_STRING, value)) => read_string(value, bytes_max),
        Some((other, _)) => Err(match other {
            1 | 10 | 14 | 18 => RestoreError::Type("list"),
            2 | 11 | 20 => RestoreError::Type("set"),
            3 | 5 | 12 | 17 => RestoreError::Type("sorted set"),
            4 | 9 | 13 | 16 => RestoreError::Type("hash"),
            15 | 19 | 21 => RestoreError::Type("stream"),
            6 | 7 => RestoreError::Type("module's value"),
            _ => RestoreError::Format,
        }),
        None => Err(RestoreError::Format),
    }
}

/// What is left to be read.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], RestoreError> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(RestoreError::Format)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], RestoreError> {
        let bytes = self.take(N)?;
        bytes.try_into().map_err(|_| RestoreError::Format)
    }

    fn byte(&mut self) -> Result<u8, RestoreError> {
        self.array().map(|[byte]| byte)
    }

    /// A length whose first byte is `first`.
    fn length(&mut self, first: u8) -> Result<usize, RestoreError> {
        let length = match first {
            0..0x40 => u64::from(first),
            0x40..0x80 => u64::from(u16::from_be_bytes([first & 0x3F, self.byte()?])),
            0x80 => u64::from(u32::from_be_bytes(self.array()?)),
            0x81 => u64::from_be_bytes(self.array()?),
            _ => return Err(RestoreError::Format),
        };
        usize::try_from(length).map_err(|_| RestoreError::Format)
    }
}

fn read_string(value: &[u8], bytes_max: usize) -> Result<Vec<u8>, RestoreError> {
    let mut rest = Rest(value);
    let string = match rest.byte()? {
        0xC0 => i8::from_le_bytes(rest.array()?).to_string().into_bytes(),
        0xC1 => i16::from_le_bytes(rest.array()?).to_string().into_bytes(),
        0xC2 => i32::from_le_bytes(rest.array()?).to_string().into_bytes(),
        0xC3 => {
            let first = rest.byte()?;
            let compressed_bytes = rest.length(first)?;
            let first = rest.byte()?;
            let length = rest.length(first)?;
            if length > bytes_max {
                return Err(RestoreError::TooLong);
            }
            decompress(rest.take(compressed_bytes)?, length)?
        }
        first => {
            let length = rest.length(first)?;
            let bytes = rest.take(length)?;
            if length > bytes_max {
                return Err(RestoreError::TooLong);
            }
            let mut string = Vec::new();
            make_room(&mut string, length).map_err(|_| RestoreError::NoRoom)?;
            string.extend_from_slice(bytes);
            string
        }
    };
    if rest.0.is_empty() {
        Ok(string)
    } else {
        Err(RestoreError::Format)
    }
}

/// What a control byte can make of bytes at most.
const STEP_BYTES_MAX: usize = 7 + 2 + 255;

/// Undoes LZF: a control byte below 32 stands before so many bytes and one; another names a place
/// further up, and how much of what is there comes again.
fn decompress(bytes: &[u8], length: usize) -> Result<Vec<u8>, RestoreError> {
    let mut rest = Rest(bytes);
    // The length is only announced: room is taken as bytes come.
    let mut out: Vec<u8> = Vec::new();
    let likely = length.min(bytes.len().saturating_mul(4));
    // And what the last step may make too much.
    out.try_reserve_exact(likely.saturating_add(STEP_BYTES_MAX))
        .map_err(|_| RestoreError::NoRoom)?;
    while !rest.0.is_empty() {
        let control = usize::from(rest.byte()?);
        make_room(&mut out, STEP_BYTES_MAX).map_err(|_| RestoreError::NoRoom)?;
        if control < 32 {
            out.extend_from_slice(rest.take(control.saturating_add(1))?);
        } else {
            let mut count = (control >> 5).saturating_add(2);
            if control >> 5 == 7 {
                count = count.saturating_add(usize::from(rest.byte()?));
            }
            let low = usize::from(rest.byte()?);
            let back = ((control & 0x1F) << 8 | low).saturating_add(1);
            let mut from = out.len().checked_sub(back).ok_or(RestoreError::Format)?;
            // It may reach into what it makes itself.
            for _ in 0..count {
                out.push(*out.get(from).ok_or(RestoreError::Format)?);
                from = from.saturating_add(1);
            }
        }
        if out.len() > length {
            return Err(RestoreError::Format);
        }
    }
    if out.len() == length {
        Ok(out)
    } else {
        Err(RestoreError::Format)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_checksum_is_redis_s() {
        assert_eq!(crc64(b"123456789"), 0xe9c6_d914_c4b8_d9ca);
    }

    #[test]
    fn numbers_are_written_as_numbers() {
        for (text, form) in [
            ("10", &[0, 0xC0, 10][..]),
            ("-1", &[0, 0xC0, 0xFF]),
            ("128", &[0, 0xC1, 0x80, 0]),
            ("70000", &[0, 0xC2, 0x70, 0x11, 1, 0]),
            ("2147483648", b"\0\x0a2147483648"),
            ("007", b"\0\x03007"),
        ] {
            let payload = dump(text.as_bytes()).expect("there is memory");
            assert_eq!(payload.len(), form.len() + FOOTER_BYTES);
            assert!(payload.starts_with(form), "{text}");
            assert_eq!(restore(&payload, 100), Ok(text.as_bytes().to_vec()));
        }
    }

    /// A payload with this body and a right footer.
    fn sealed(body: &[u8]) -> Vec<u8> {
        let mut payload = body.to_vec();
        payload.extend_from_slice(&10u16.to_le_bytes());
        payload.extend_from_slice(&crc64(&payload).to_le_bytes());
        payload
    }

    #[test]
    fn compressed_strings_are_read() {
        // 40 times "a", as Redis 7.0 writes it.
        let body = b"\0\xC3\x06\x28\x01aa\xE0\x1D\x00";
        assert_eq!(restore(&sealed(body), 100), Ok(vec![b'a'; 40]));
        assert_eq!(restore(&sealed(body), 39), Err(RestoreError::TooLong));
        let wrong = b"\0\xC3\x03\x28\x20\x05a";
        assert_eq!(restore(&sealed(wrong), 100), Err(RestoreError::Format));
    }

    #[test]
    fn what_is_no_payload_is_refused() {
        let good = dump(b"hello").expect("there is memory");
        for index in 0..good.len() {
            let mut bad = good.clone();
            bad[index] ^= 1;
            assert!(restore(&bad, 100).is_err(), "byte {index}");
            assert!(restore(&good[..index], 100).is_err());
        }
        assert_eq!(
            restore(&sealed(b"\x01\0"), 100),
            Err(RestoreError::Type("list"))
        );
        assert_eq!(restore(&sealed(b""), 100), Err(RestoreError::Format));
        assert_eq!(
            restore(&sealed(b"\0\x01ab"), 100),
            Err(RestoreError::Format)
        );
        assert_eq!(restore(&sealed(b"\0\xC4"), 100), Err(RestoreError::Format));
    }

    proptest! {
        #[test]
        fn what_is_dumped_is_restored(value: Vec<u8>, long in 0usize..70_000) {
            let payload = dump(&value).expect("there is memory");
            prop_assert_eq!(restore(&payload, 70_000), Ok(value));
            let long = vec![7; long];
            let payload = dump(&long).expect("there is memory");
            prop_assert_eq!(restore(&payload, 70_000), Ok(long));
        }

        #[test]
        fn no_body_makes_it_panic(body: Vec<u8>) {
            let mut body = body;
            body.insert(0, TYPE_STRING);
            let _ = restore(&sealed(&body), 1000);
        }
    }
}
