//! Timestamps and durations: reading them, writing them, and the parts of a timestamp in a time
//! zone. `jiff` serves only for named zones: its timestamps end a day before CEL's do.

use super::value::Value;
use super::{EvalError, no_such_overload};

const NANOS: i64 = 1_000_000_000;
const DAY: i64 = 86_400;
/// The years 1 to 9999.
const SECONDS: std::ops::RangeInclusive<i64> = -62_135_596_800..=253_402_300_799;

/// A moment, and the offset it was written with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Time {
    seconds: i64,
    nanos: i64,
    offset: i64,
}

impl PartialEq for Time {
    fn eq(&self, other: &Self) -> bool {
        self.total() == other.total()
    }
}

impl PartialOrd for Time {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        self.total().partial_cmp(&other.total())
    }
}

impl Time {
    pub(super) fn from_seconds(seconds: i64) -> Option<Time> {
        SECONDS.contains(&seconds).then_some(Time { seconds, nanos: 0, offset: 0 })
    }

    pub(super) fn seconds(&self) -> i64 {
        self.seconds
    }

    /// Whether it is the first moment of year 1.
    pub(super) fn is_zero(&self) -> bool {
        (self.seconds, self.nanos) == (*SECONDS.start(), 0)
    }

    fn total(&self) -> i128 {
        i128::from(self.seconds) * i128::from(NANOS) + i128::from(self.nanos)
    }

    /// The moment so many nanoseconds later.
    pub(super) fn plus(&self, nanos: i128) -> Option<Time> {
        let total = self.total() + nanos;
        let seconds = i64::try_from(total.div_euclid(i128::from(NANOS))).ok()?;
        let nanos = total.rem_euclid(i128::from(NANOS)) as i64;
        SECONDS.contains(&seconds).then_some(Time { seconds, nanos, offset: self.offset })
    }

    /// Nanoseconds from `earlier` to this moment.
    pub(super) fn since(&self, earlier: &Time) -> Option<i64> {
        i64::try_from(self.total() - earlier.total()).ok()
    }

    /// Reads RFC 3339 as Go does: the hour may have one digit, the fraction may follow a comma.
    /// The inner `None` is a moment outside the years that are allowed.
    pub(super) fn parse(text: &str) -> Option<Option<Time>> {
        let (date, time) = text.split_once('T')?;
        let [year, month, day] = parts(date, '-')?;
        let zone = time.find(['Z', '+', '-'])?;
        let (clock, zone) = time.split_at(zone);
        let (clock, fraction) = clock.split_once(['.', ',']).map_or((clock, None), |(a, b)| (a, Some(b)));
        let [hour, minute, second] = parts(clock, ':')?;
        let offset = match zone {
            "Z" => 0,
            zone => {
                let (hours, minutes) = zone[1..].split_once(':')?;
                let (hours, minutes) = (number(hours, 2, 24)?, number(minutes, 2, 59)?);
                (hours * 60 + minutes) * if zone.starts_with('-') { -60 } else { 60 }
            }
        };
        let (year, month) = (number(year, 4, 9999)?, number(month, 2, 12)?);
        let day = number(day, 2, days_in(year, month)).filter(|day| *day > 0 && month > 0)?;
        let hour = number(hour, hour.len().clamp(1, 2), 23)?;
        let seconds = hour * 3600 + number(minute, 2, 59)? * 60 + number(second, 2, 59)?;
        let nanos = match fraction {
            None => 0,
            Some(digits) if !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_digit()) => {
                format!("{digits:0<9}")[..9].parse().ok()?
            }
            Some(_) => return None,
        };
        let seconds = days_before(year, month, day) * DAY + seconds - offset;
        Some(SECONDS.contains(&seconds).then_some(Time { seconds, nanos, offset }))
    }

    /// RFC 3339, with the offset it was read with and no zeros at the end of the fraction.
    pub(super) fn print(&self, offset: i64) -> String {
        let civil = Civil::new(self.seconds, offset);
        let mut text = format!("{:04}-{:02}-{:02}T", civil.year, civil.month, civil.day);
        let second = civil.second_of_day;
        text += &format!("{:02}:{:02}:{:02}", second / 3600, second / 60 % 60, second % 60);
        if self.nanos > 0 {
            text += format!(".{:09}", self.nanos).trim_end_matches('0');
        }
        if offset == 0 {
            return text + "Z";
        }
        let (sign, minutes) = if offset < 0 { ('-', -offset / 60) } else { ('+', offset / 60) };
        text + &format!("{sign}{:02}:{:02}", minutes / 60, minutes % 60)
    }

    pub(super) fn offset(&self) -> i64 {
        self.offset
    }
}

/// Date and time of day somewhere.
struct Civil {
    year: i64,
    month: i64,
    day: i64,
    /// Days since 1970.
    days: i64,
    second_of_day: i64,
}

impl Civil {
    /// After Howard Hinnant's `civil_from_days`.
    fn new(seconds: i64, offset: i64) -> Civil {
        let (days, second_of_day) = ((seconds + offset).div_euclid(DAY), (seconds + offset).rem_euclid(DAY));
        let shifted = days + 719_468;
        let era = shifted.div_euclid(146_097);
        let of_era = shifted.rem_euclid(146_097);
        let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted_month = (5 * of_year + 2) / 153;
        let day = of_year - (153 * shifted_month + 2) / 5 + 1;
        let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
        Civil { year: year_of_era + era * 400 + i64::from(month <= 2), month, day, days, second_of_day }
    }
}

/// Days from 1970 to a date; the inverse of [`Civil::new`].
fn days_before(year: i64, month: i64, day: i64) -> i64 {
    let year = year - i64::from(month <= 2);
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * (if month > 2 { month - 3 } else { month + 9 }) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

fn days_in(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

fn parts(text: &str, between: char) -> Option<[&str; 3]> {
    text.split(between).collect::<Vec<_>>().try_into().ok()
}

fn number(text: &str, digits: usize, most: i64) -> Option<i64> {
    let fits = text.len() == digits && text.bytes().all(|digit| digit.is_ascii_digit());
    text.parse().ok().filter(|number| fits && *number <= most)
}

/// A duration as Go writes it: `1h30m`, `-1.5s`.
pub(super) fn parse_duration(text: &str) -> Option<i64> {
    let negative = text.starts_with('-');
    let mut rest = text.strip_prefix(['-', '+']).unwrap_or(text);
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total = 0i128;
    while !rest.is_empty() {
        let digits = |text: &str| text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (whole, after) = rest.split_at(digits(rest));
        let (fraction, after) = match after.strip_prefix('.') {
            Some(after) => after.split_at(digits(after)),
            None => ("", after),
        };
        if whole.is_empty() && fraction.is_empty() {
            return None;
        }
        let (unit, after) = after.split_at(after.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(after.len()));
        let unit: i128 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => i128::from(NANOS),
            "m" => 60 * i128::from(NANOS),
            "h" => 3600 * i128::from(NANOS),
            _ => return None,
        };
        // More digits are beyond a nanosecond of any unit.
        let fraction = &fraction[..fraction.len().min(15)];
        let scale = 10i128.pow(fraction.len() as u32);
        let whole: i128 = if whole.is_empty() { 0 } else { i128::from(whole.parse::<i64>().ok()?) };
        let part: i128 = if fraction.is_empty() { 0 } else { fraction.parse().ok()? };
        total = total.checked_add(whole * unit + part * unit / scale)?;
        rest = after;
    }
    i64::try_from(if negative { -total } else { total }).ok()
}

/// In seconds, with as many decimals as it takes.
pub(super) fn print_duration(nanos: i64) -> String {
    format!("{}s", (nanos / NANOS) as f64 + (nanos % NANOS) as f64 / NANOS as f64)
}

/// `getHours` and its kin, of a timestamp or a duration.
pub(super) fn part<'a>(function: &'static str, arguments: &[Value<'a>]) -> Result<Value<'a>, EvalError> {
    let (time, zone) = match arguments {
        [Value::Duration(nanos)] => {
            let unit = match function {
                "getHours" => 3600 * NANOS,
                "getMinutes" => 60 * NANOS,
                "getSeconds" => NANOS,
                "getMilliseconds" => 1_000_000,
                _ => return Err(no_such_overload(function, arguments)),
            };
            return Ok(Value::Int(nanos / unit));
        }
        [Value::Timestamp(time)] => (time, ""),
        [Value::Timestamp(time), Value::String(zone)] => (time, &**zone),
        _ => return Err(no_such_overload(function, arguments)),
    };
    let civil = Civil::new(time.seconds, offset_in(zone, time.seconds)?);
    Ok(Value::Int(match function {
        "getFullYear" => civil.year,
        "getMonth" => civil.month - 1,
        "getDate" => civil.day,
        "getDayOfMonth" => civil.day - 1,
        "getDayOfWeek" => (civil.days + 4).rem_euclid(7),
        "getDayOfYear" => civil.days - days_before(civil.year, 1, 1),
        "getHours" => civil.second_of_day / 3600,
        "getMinutes" => civil.second_of_day / 60 % 60,
        "getSeconds" => civil.second_of_day % 60,
        _ => time.nanos / 1_000_000,
    }))
}

/// Seconds east of UTC: of an offset such as `-02:30`, or of a named zone at that moment.
fn offset_in(zone: &str, seconds: i64) -> Result<i64, EvalError> {
    let unknown = || EvalError::new(format!("unknown time zone {zone}"));
    if let Some((hours, minutes)) = zone.split_once(':') {
        let (hours, minutes): (i32, i32) =
            (hours.parse().map_err(|_| unknown())?, minutes.parse().map_err(|_| unknown())?);
        let minutes = if zone.starts_with('-') { -i64::from(minutes) } else { i64::from(minutes) };
        return Ok((i64::from(hours) * 60 + minutes) * 60);
    }
    if matches!(zone, "" | "UTC" | "Local") {
        return Ok(0);
    }
    let zone = jiff::tz::TimeZone::get(zone).map_err(|_| unknown())?;
    let at = jiff::Timestamp::from_second(seconds).map_err(|_| unknown())?;
    Ok(i64::from(zone.to_offset(at).seconds()))
}
