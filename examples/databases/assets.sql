-- A table of assets as a media library might have one. The recordings are those of ../audio.
CREATE TABLE assets (
  uuid CHAR(36) PRIMARY KEY,
  title TEXT NOT NULL,
  file TEXT NOT NULL,
  spoken_language TEXT,
  shelf INTEGER NOT NULL
);
INSERT INTO assets VALUES ('0b0c8f3e-55a2-4a9d-9f0e-8f6a3c1d0001', 'A phone number', 'phone_number.wav', 'en', 3);
INSERT INTO assets VALUES ('0b0c8f3e-55a2-4a9d-9f0e-8f6a3c1d0002', 'The door code', 'door_code.mp3', 'en', 3);
INSERT INTO assets VALUES ('0b0c8f3e-55a2-4a9d-9f0e-8f6a3c1d0003', 'The lottery', 'lottery.mp4', NULL, 3);
INSERT INTO assets VALUES ('0b0c8f3e-55a2-4a9d-9f0e-8f6a3c1d0004', 'Not ours', 'dialogue.flac', 'en', 9);
