"""geosr's own methods, the default first."""

from __future__ import annotations

from geosr.methods.entry import Entry

ENTRIES = {
    entry.name: entry
    for entry in (
        Entry(
            "mmsr",
            "geosr.methods.mmsr:create",
            "mutual modulation network fitted on the pair itself; a guided diffusion places its edges",
            source="Dong et al., ECCV 2022",
            use="the best result on most pairs, where there is time for it",
            cost="minutes",
            presets=("default", "paper-depth", "paper-dem"),
            automatic=True,
        ),
        Entry(
            "diffusion",
            "geosr.methods.diffusion:create",
            "smooths the source, but not across the guide's edges as far as these are believed",
            source="Perona and Malik 1990; Metzger et al., CVPR 2023",
            use="man-made edges that the guide shows: roofs, walls, roads; a large scene in little time",
            cost="instant",
            automatic=True,
        ),
        Entry(
            "p2p",
            "geosr.methods.p2p:create",
            "a function from a pixel's colour and place to its value, fitted on the tile (PixTransform)",
            source="de Lutio et al., ICCV 2019",
            use="to compare with; large scales, where colour tells more than the blurred source does",
            cost="seconds",
            presets=("default", "paper"),
        ),
        *(
            Entry(
                name,
                f"geosr.methods.pretrained:create_{name}",
                summary,
                source=source,
                use=use,
                cost=cost,
                needs_weights=True,
            )
            for name, cost, summary, source, use in (
                (
                    "fdsr",
                    "instant",
                    "network trained on many pairs; fine detail of the guide joins the source's features",
                    "He et al., CVPR 2021",
                    "pairs like those that it was trained on, many of them in little time",
                ),
                (
                    "fdkn",
                    "instant",
                    "network trained on many pairs; each pixel is a weighted sum of moved samples of the source",
                    "Kim, Ponce and Ham, IJCV 2021",
                    "to compare with; pairs like those that it was trained on",
                ),
                (
                    "dkn",
                    "seconds",
                    "as fdkn, its kernels found at full resolution",
                    "Kim, Ponce and Ham, IJCV 2021",
                    "to compare with; slower than fdkn",
                ),
            )
        ),
        Entry(
            "cmsr",
            "geosr.methods.cmsr:create",
            "a network that learns on the pair itself what the guide tells a scale down; can deform the guide",
            source="Shacht et al., CVPR 2021",
            use="to compare with; --set deformation=smooth where the guide may be bent",
            cost="seconds",
            presets=("default", "paper"),
        ),
        Entry(
            "regression",
            "geosr.methods.regression:create",
            "regression from guide bands to source at the source's resolution, with its residual added (DMS, TsHARP)",
            source="Gao et al. 2012; Kustas et al. 2003; scikit-learn",
            use="to compare with thermal sharpening tools; bands with which the source goes up and down",
            cost="instant",
            libraries=("scikit-learn",),
            extra="baselines",
        ),
        Entry(
            "guided-filter",
            "geosr.methods.filters:create_guided",
            "the interpolated source as a locally linear function of the guide",
            source="He, Sun and Tang, TPAMI 2013",
            use="a quick guided baseline; soft edges",
            cost="instant",
        ),
        Entry(
            "joint-bilateral",
            "geosr.methods.filters:create_bilateral",
            "mean of the near source pixels, those of the same colour in the guide before others",
            source="Kopf et al., SIGGRAPH 2007",
            use="a quick guided baseline; sharp edges where colours differ clearly",
            cost="instant",
        ),
        Entry(
            "bicubic",
            "geosr.methods.classic:create_bicubic",
            "cubic convolution of the source (a = -0.75); the guide is not used",
            source="Keys 1981; torch",
            use="what every other method is measured against; a guide that has nothing to do with the source",
            cost="instant",
            automatic=True,
        ),
        Entry(
            "lanczos",
            "geosr.methods.classic:create_lanczos",
            "windowed sinc over three source pixels to each side; the guide is not used",
            source="Duchon 1979; Pillow",
            use="to compare; the sharpest interpolation, with overshoots at edges",
            cost="instant",
        ),
        Entry(
            "bilinear",
            "geosr.methods.classic:create_bilinear",
            "between the four nearest source pixels; the guide is not used",
            source="Pillow",
            use="to compare; no overshoots with --consistency off",
            cost="instant",
        ),
        Entry(
            "nearest",
            "geosr.methods.classic:create_nearest",
            "every output pixel is its source pixel; the guide is not used",
            source="Pillow",
            use="to compare; the source's own values on the finer grid",
            cost="instant",
        ),
    )
}
