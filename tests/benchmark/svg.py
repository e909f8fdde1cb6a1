"""Plots as SVG text, without a library."""
import html
import math

FONT = 'font-family="sans-serif" font-size="12"'
BLUE, GREEN, RED = "#1f6fb4", "#3a8f5c", "#c03a3a"


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
                  f'fill="{GREEN if row["ok"] else RED}"/>']
    return document(width, bottom + 10, [*parts, line(zero, top, zero, bottom, "black")])


def growth(title, costs):
    """The cost of a dispatch, in nanoseconds, over what grows; both logarithmic."""
    left, top, right, bottom = 60, 30, 480, 240
    sizes = list(costs)
    x_first, x_last = math.log10(sizes[0]), math.log10(max(sizes[-1], sizes[0] * 10))
    y_first = math.floor(math.log10(min(costs.values())))
    y_last = max(math.ceil(math.log10(max(costs.values()))), y_first + 2)

    def x_of(size):
        return left + (right - left) * (math.log10(size) - x_first) / (x_last - x_first)

    def y_of(cost):
        return bottom - (bottom - top) * (math.log10(cost) - y_first) / (y_last - y_first)
    parts = [text(left, 18, f"nanoseconds a dispatch over {title}")]
    for power in range(y_first, y_last + 1):
        y = y_of(10 ** power)
        parts += [line(left, y, right, y), text(left - 6, y + 4, f"{10 ** power:g}", "end")]
    for size in sizes:
        parts += [line(x_of(size), top, x_of(size), bottom), text(x_of(size), bottom + 18, f"{size:,}", "middle")]
    points = [(x_of(size), y_of(cost)) for size, cost in costs.items()]
    parts.append(f'<polyline fill="none" stroke="{BLUE}" stroke-width="2" points="'
                 + " ".join(f"{x:.1f},{y:.1f}" for x, y in points) + '"/>')
    parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{BLUE}"/>' for x, y in points]
    return document(right + 30, bottom + 30, parts)
