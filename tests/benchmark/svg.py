"""Plots as SVG text, without a library."""
import html
import math

FONT = 'font-family="sans-serif" font-size="12"'
COLORS = ("#1f6fb4", "#d1622b", "#3a8f5c", "#8a5aa8", "#7a7a7a")


def document(width, height, parts):
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" {FONT}>\n'
            f'<rect width="{width}" height="{height}" fill="white"/>\n' + "\n".join(parts) + "\n</svg>\n")


def text(x, y, what, anchor="start"):
    return f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}">{html.escape(what)}</text>'


def line(x1, y1, x2, y2, color="#ddd"):
    return f'<line x1="{x1:.0f}" y1="{y1:.0f}" x2="{x2:.0f}" y2="{y2:.0f}" stroke="{color}"/>'


def ratios(rows):
    """How far the ratio of each row is on the good side of its target (1 is the target), as bars on a logarithmic scale."""
    left, width, step, top = 190, 800, 24, 30
    better = [row["ratio"] / row["target"] if row["higher"] else row["target"] / max(row["ratio"], 1e-9) for row in rows]
    reach = max(1.0, *(abs(math.log10(value)) for value in better))
    zero, scale = (left + width - 70) / 2, (width - 70 - left) / 2 / reach
    bottom = top + step * len(rows)
    parts = [text(zero, 18, "short of the target | times better than the target", "middle")]
    for row, value, y in zip(rows, better, range(top, bottom, step)):
        end = zero + scale * math.log10(value)
        parts += [text(8, y + 16, row["row"]), text(width - 8, y + 16, f"{value:.2f}", "end"),
                  f'<rect x="{min(zero, end):.0f}" y="{y + 5}" width="{max(1, abs(end - zero)):.0f}" height="14" '
                  f'fill="{"#3a8f5c" if row["ok"] else "#c03a3a"}"/>']
    return document(width, bottom + 10, [*parts, line(zero, top, zero, bottom, "black")])
