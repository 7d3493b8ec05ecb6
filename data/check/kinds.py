"""What can be wrong with a data set: for each kind what it is called, what it does, and the way out.

Levels: "stops": train.py or test.py refuses the set, at once or when it comes to the image. "hurts": the network learns from
wrong data, or the figures are wrong. "note": handled, or worth knowing. The first two make the exit code 1.
"""
from typing import NamedTuple

LEVELS = ("stops", "hurts", "note")
REFUSED = "train.py or test.py, whichever reads it, refuses the set."
MISSED = "Left out of training; in val and test an object that nothing can find."


class Kind(NamedTuple):
    """One kind of finding; `effect` and `remedy` are sentences."""

    level: str
    title: str
    effect: str
    remedy: str


KINDS = {
    # the files of annotations
    "annotation_file": Kind(
        "stops", "annotation files missing or unreadable", REFUSED,
        "Name the file in data.train, data.val or data.test. Those of val and test may be left empty (data.test=)."),
    "broken_entry": Kind(
        "stops", "entries without what they need", REFUSED,
        "An image needs a whole number id and a file_name, an annotation image_id, category_id and bbox."),
    "xml_missing": Kind("stops", "XML files missing", REFUSED, "Restore them, or set data.annotations to their folder."),
    "xml_unreadable": Kind("stops", "XML files that cannot be read", REFUSED, "Replace them."),
    "refused": Kind("stops", "refused by train.py or test.py", REFUSED, "Do as the message says."),
    "no_usable_box": Kind(
        "stops", "no box to learn from", "train.py refuses the set.", "Name a file with annotations in data.train."),
    # ids
    "image_id_twice": Kind("stops", "image ids used twice", REFUSED, "Give each image an id of its own."),
    "annotation_id_twice": Kind("stops", "annotation ids used twice", REFUSED, "Give each annotation an id of its own."),
    "category_twice": Kind(
        "stops", "categories declared twice", REFUSED, "Give each category an id and a name of its own, or merge them."),
    "unknown_image": Kind(
        "stops", "annotations of images that are not listed", REFUSED,
        "Add the images to the file, or remove the annotations."),
    "unknown_category": Kind(
        "stops", "annotations of categories that are not declared", REFUSED,
        "Declare the category (in data.classes for VOC), or remove the annotations."),
    # images
    "image_missing": Kind(
        "stops", "image files missing", REFUSED, "Restore them, or set data.images to their folder."),
    "image_ambiguous": Kind(
        "stops", "names that stand for several files", REFUSED,
        "Set data.images or data.annotations to the folder that holds the ones to use."),
    "image_unreadable": Kind(
        "stops", "images that cannot be decoded or are cut short", "Training and testing stop when they come to one.",
        "Replace the files."),
    "image_size": Kind(
        "stops", "images of another size than annotated", "Training and testing stop when they come to one.",
        "Mend width and height in the annotations, or replace the files: the boxes may be those of another version."),
    "size_invalid": Kind(
        "stops", "images without a valid width and height", REFUSED, "Give both in pixels."),
    "name_escapes": Kind(
        "stops", "file names that leave the image folder", REFUSED, "Use names relative to data.images."),
    "name_twice": Kind("stops", "names listed twice", REFUSED, "Remove the repetition from the list."),
    "file_twice": Kind(
        "hurts", "image files listed under two ids",
        "Seen twice as often, and each time with the objects of one id only: the others are learned as background.",
        "Merge the entries."),
    "image_duplicate": Kind(
        "hurts", "images that show the same as another of their split",
        "Counted twice; where their boxes differ the network learns a contradiction.", "Remove one of each, with its boxes."),
    "image_blank": Kind(
        "hurts", "images of a single colour that have objects", "Their objects cannot be seen.", "Replace the files."),
    "image_dark": Kind(
        "hurts", "images that are nearly black and have objects",
        "Of files with 16 bits only the upper 8 are read: of a satellite's 11 or 12 bits they leave next to nothing.",
        "Convert them to 8 bits that span the range in use."),
    "image_shrunk": Kind(
        "note", "images larger than train.image_size", "They are scaled down, and tiny objects get tinier.",
        "Set train.image_size to their longer side, or cut them into tiles: python -m data.cut."),
    "image_empty": Kind("note", "images without an object", "Background to learn from, which is fine.",
                        "Look at some: they may have lost their annotations."),
    # boxes
    "box_invalid": Kind(
        "stops", "boxes that are not four finite numbers", REFUSED,
        "Mend or remove them: COCO's are x, y, width, height, VOC's the corners."),
    "box_negative": Kind(
        "stops", "boxes of negative size", REFUSED,
        "Mend them: COCO's are x, y, width, height; of VOC's corners the smaller are xmin and ymin."),
    "box_zero": Kind("hurts", "boxes of zero width or height", MISSED,
                     "Remove or redraw them in the training file; leave a published test file as it is."),
    "box_outside": Kind("hurts", "boxes outside their image", MISSED,
                        "Mend or remove them: the size or the file name may be another image's."),
    "box_partly_outside": Kind(
        "note", "boxes partly outside their image", "Clipped in training; left as they are in val and test.",
        "Nothing to do, unless many stand out by many pixels: then they are the boxes of another size of the image."),
    "box_small": Kind(
        "note", "boxes under 2 px wide or high",
        "Hardly to be learned: augmentation drops what it makes smaller than augment.min_box_side, and a shift by a pixel ends "
        "a match at IoU 0.5.", "Look at some: they may be slips of the hand."),
    "box_duplicate": Kind(
        "hurts", "boxes that repeat another (image, class, coordinates)",
        "Weigh twice in training; in val and test one of the two is never found, as NMS leaves one detection.",
        "Remove the repetitions; leave a published test file as it is."),
    "not_learned": Kind(
        "note", "crowds or difficult objects", "Left out of training: they are learned as background.",
        "Clear the mark where they are many and should be learned."),
    "area_invalid": Kind(
        "stops", "negative areas", "Scoring refuses the file.", "Give square pixels, or leave 'area' out."),
    "area_differs": Kind(
        "note", "areas that are not width x height", "AP by size goes by 'area', as in COCO, whose areas are those of masks.",
        "Nothing to do for areas of masks; else mend 'area', or leave it out."),
    "no_cell": Kind(
        "note", "training objects that contain no cell centre", "The assigner gives them no cell: they are never learned.", ""),
    # classes
    "class_unknown": Kind(
        "stops", "classes of data.classes or of training that a file lacks", REFUSED,
        "Correct the names in data.classes or in the file; the classes of val and test are those of training."),
    "class_not_learned": Kind(
        "hurts", "classes with objects in val or test that training does not declare",
        "Their objects are left out of testing.", "Declare them in the training file, or name those to keep in data.classes."),
    "class_untrained": Kind(
        "hurts", "classes with objects in val or test, but none to train on", "Their AP is 0, and pulls down the mean.",
        "Move images between the splits, or leave the class out with data.classes."),
    "class_untested": Kind(
        "note", "classes to train on without an object in val or test",
        "They have no AP there, and the mean is over the others.", "Keep it in mind when figures are compared."),
    "class_empty": Kind("note", "classes without an object in any split", "Outputs that learn to be silent.",
                        "data.classes can leave them out."),
    # between splits
    "overlap_file": Kind(
        "hurts", "files that stand in two splits", "Figures on images that were learned, or chosen by, say nothing.",
        "Remove them from one."),
    "overlap_pixels": Kind(
        "hurts", "images that show the same as one of another split",
        "Figures on images that were learned, or chosen by, say nothing.", "Remove them from one."),
    "overlap_scene": Kind(
        "note", "boxes in an area that a crop of the same scene shows in another split",
        "The object, though not the image, was learned: figures are optimistic (with AI-TOD everyone's).",
        "Leave a published split as it is, and say so; in a set of your own keep the crops of a scene together."),
    # testing
    "over_max_det": Kind(
        "hurts", "images in val or test with more objects than eval.max_det", "Those above the limit cannot be found.", ""),
    "over_class_limit": Kind(
        "note", "images with more objects of a class than the protocol counts detections",
        "Those above the limit cannot be found.", "The benchmark sets the limit; eval.limits does for figures of your own."),
}
