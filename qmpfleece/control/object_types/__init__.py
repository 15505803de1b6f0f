"""One file per type of object that object-add makes; the folder is scanned."""
