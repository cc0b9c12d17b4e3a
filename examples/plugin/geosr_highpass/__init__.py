"""What geosr reads to know of the method: nothing heavy is imported here."""

from geosr.methods import Entry

ENTRY = Entry(
    "highpass",
    "geosr_highpass.method:create",
    "the interpolated source, with the guide's detail added in proportion",
    source="high-pass filtering, Chavez et al. 1991; an example",
    use="to see how a method in a package of its own is made",
    cost="instant",
)
