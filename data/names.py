"""Class names of the paper's two data sets, in the order of their labels, with the short forms that tables print."""

# Spelled as in AI-TOD's annotation files, by category id. The short forms are those of class-wise tables on AI-TOD elsewhere:
# this paper has none.
AITOD = {
    "airplane": "AI",
    "bridge": "BR",
    "storage-tank": "ST",
    "ship": "SH",
    "swimming-pool": "SP",
    "vehicle": "VE",
    "person": "PE",
    "wind-mill": "WM",
}

# Spelled as in DIOR's XML, in the order of the paper's Table II, with its short forms. (Section IV-B calls vehicles WH.)
DIOR = {
    "airplane": "AL",
    "airport": "AT",
    "baseballfield": "BF",
    "basketballcourt": "BC",
    "bridge": "BG",
    "chimney": "CM",
    "dam": "DM",
    "Expressway-Service-area": "EA",
    "Expressway-toll-station": "ES",
    "golffield": "GC",
    "groundtrackfield": "GF",
    "harbor": "HB",
    "overpass": "OP",
    "ship": "SP",
    "stadium": "SD",
    "storagetank": "ST",
    "tenniscourt": "TC",
    "trainstation": "TS",
    "vehicle": "VH",
    "windmill": "WM",
}
