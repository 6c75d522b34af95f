//! Turning the hue: to HSV in 8 bits and back, in the roundings of Pillow's conversion.

/// Turns the hue of every pixel by `share` of a turn.
pub(super) fn turn(pixels: &mut [u8], share: f64) {
    let by = (255.0 * share) as i32 as u8;
    for pixel in pixels.chunks_exact_mut(3) {
        let [h, s, v] = to_hsv([pixel[0], pixel[1], pixel[2]]);
        pixel.copy_from_slice(&to_rgb([h.wrapping_add(by), s, v]));
    }
}

fn to_hsv([r, g, b]: [u8; 3]) -> [u8; 3] {
    let (most, least) = (r.max(g).max(b), r.min(g).min(b));
    if most == least {
        return [0, 0, most];
    }
    let range = f32::from(most - least);
    let share = range / f32::from(most);
    let [rc, gc, bc] = [r, g, b].map(|value| f32::from(most - value) / range);
    let h = if r == most {
        bc - gc
    } else if g == most {
        (2.0 + f64::from(rc) - f64::from(bc)) as f32
    } else {
        (4.0 + f64::from(gc) - f64::from(rc)) as f32
    };
    // These two in f64: in f32 one pixel in a hundred comes out another.
    let h = ((f64::from(h) / 6.0 + 1.0) % 1.0) as f32;
    [(255.0 * f64::from(h)) as u8, (255.0 * f64::from(share)) as u8, most]
}

fn to_rgb([h, s, v]: [u8; 3]) -> [u8; 3] {
    if s == 0 {
        return [v; 3];
    }
    let (share, x) = (f32::from(s) / 255.0, (f64::from(h) * 6.0 / 255.0) as f32);
    let sector = x.floor();
    let (share, f) = (f64::from(share), f64::from(x - sector));
    let level = |factor: f64| (f64::from(v) * factor + 0.5) as u8;
    let (p, q, t) = (level(1.0 - share), level(1.0 - share * f), level(1.0 - share * (1.0 - f)));
    match sector as u32 % 6 {
        0 => [v, t, p],
        1 => [q, v, p],
        2 => [p, v, t],
        3 => [p, q, v],
        4 => [t, p, v],
        _ => [v, p, q],
    }
}
