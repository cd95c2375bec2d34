{{- /*
The volumes: the pipeline's own, and those that hold a run or what is uploaded, as preheat_operator.mounts,
run_volume and upload_container find them.
*/ -}}
{{- define "preheat.injection.volumes" }}
  # The pipeline's own volume.
  - name: claim
    expression: params.spec.?volume.?persistentVolumeClaim.?claimName.orValue('')
  - name: emptyDir
    expression: params.spec.?volume.?emptyDir.orValue({})
  - name: volumes
    expression: object.spec.?volumes.orValue([]).filter(v, v.name == 'preheat')
  - name: volumeOccupied
    expression: >-
      variables.volumes.exists(v, variables.claim != ''
        ? v.?persistentVolumeClaim.?claimName.orValue('') != variables.claim
        : !has(v.emptyDir)
          || has(variables.emptyDir.medium) && v.emptyDir.?medium.orValue('') != variables.emptyDir.medium
          || has(variables.emptyDir.sizeLimit) && (!has(v.emptyDir.sizeLimit)
            || quantity(v.emptyDir.sizeLimit).compareTo(quantity(string(variables.emptyDir.sizeLimit))) != 0))

  # The receivers' variables and mounts.
  - name: folder
    expression: "'/preheat/pods/$(PREHEAT_POD_UID)'"
  - name: values
    expression: >-
      {'PREHEAT_BUNDLE': variables.folder + '/bundle', 'PREHEAT_SHIM': string(variables.shim),
       'PREHEAT_ON_FAILURE': string(params.spec.?onFailure.orValue('Fail'))}
  - name: uid
    expression: >-
      {'name': dyn('PREHEAT_POD_UID'), 'valueFrom': dyn({'fieldRef': {'apiVersion': 'v1', 'fieldPath': 'metadata.uid'}})}
  - name: variableNames
    expression: variables.apps.map(c, c.?env.orValue([]).map(e, e.name))
  # Of several variables with one name the last one counts.
  - name: pythonPaths
    expression: variables.variableNames.map(names, names.lastIndexOf('PYTHONPATH'))

  # How refusals end.
  - name: another
    expression: "'. Rename it; if the pod was copied from a running one, remove it'"
  - name: occupied
    expression: "' exists with other content. Preheat needs it: rename or remove it'"
  - name: elsewhere
    expression: "'. Mount it at a path of its own, such as /output, without subPathExpr'"

  # Each container's mounts, with their paths in one spelling: a step is left out that a later `..` takes back.
  - name: mounts
    expression: >-
      variables.apps.map(c, c.?volumeMounts.orValue([]).map(m,
        [m.mountPath.split('/').filter(step, step != '' && step != '.')].map(steps, {
          'path': dyn('/' + (!('..' in steps) ? steps : steps.transformList(i, step, step != '..'
            && !steps.transformList(k, _, k > i, steps.slice(i + 1, k + 1)).exists(after,
              after.filter(each, each == '..').size() * 2 > after.size()), step)).join('/')),
          'volume': dyn([string(m.name), string(m.?subPath.orValue('')), string(m.?subPathExpr.orValue(''))]),
          'mount': dyn(m)
        })[0]))
  # Of these, the ones that hold the run that is resumed, and what is uploaded: by container, the innermost first.
  - name: holding
    expression: >-
      {?'run': variables.recipe.?run, ?'upload': variables.recipe.?upload.?path}.transformMap(_, folder,
        variables.mounts.map(mounts, mounts.filter(m, m.path == '/' || (folder + '/').startsWith(m.path + '/'))
          .sortBy(m, 0 - m.path.size())))
  # Those that no container of ours can have: it would not see the same, or not see its own files.
  - name: unusable
    expression: >-
      variables.holding.transformMap(_, containers, containers.map(mounts, mounts.size() > 0
        && (mounts[0].volume[2] != ''
          || ['/opt/preheat', '/shim', '/usr', '/bin', '/lib', '/lib64', '/etc', '/dev', '/proc'].exists(needed,
            mounts[0].path == '/' || (needed + '/').startsWith(mounts[0].path + '/')))))

  # The volume with the run that the pipeline resumes, as preheat_operator.run_volume mounts it: by receiver.
  - name: runMounts
    expression: "has(variables.recipe.run) ? variables.receiving.map(i, variables.holding.run[i]) : []"
  - name: runRefusal
    expression: >-
      variables.runMounts.exists(mounts, mounts.size() == 0)
      ? ': resume.from: the run is in ' + variables.recipe.run + ', and container '
        + variables.chosen[variables.runMounts.map(mounts, mounts.size()).indexOf(0)].name + ' has no volume there. '
        + 'Mount the volume that the training saves to, or annotate the pod with preheat.dev/containers'
      : variables.runMounts.exists(mounts, mounts[0].path != variables.runMounts[0][0].path
          || mounts[0].volume != variables.runMounts[0][0].volume)
      ? ': resume.from: ' + variables.recipe.run + ' is not on the same volume in all containers that receive the '
        + 'checkpoint. Mount one volume there, or annotate the pod with preheat.dev/containers'
      : has(variables.recipe.run) && variables.receiving.exists(i, variables.unusable.run[i])
      ? ': resume.from: the loader cannot mount volume ' + variables.runMounts[0][0].mount.name + ' at '
        + variables.runMounts[0][0].path + variables.elsewhere
      : ''

  # The volume with what is uploaded, as preheat_operator.upload_container mounts it: the containers that have it, those
  # first that receive the checkpoint.
  - name: saving
    expression: >-
      (variables.receiving + variables.apps.transformList(i, c, i)).filter(i, variables.holding.upload[i].size() > 0)
  - name: uploadRefusal
    expression: >-
      !has(params.spec.upload) || variables.uploading ? ''
      : variables.uploads.size() > 0
      ? ': the pod has a container named preheat-upload that is not the upload of this pipeline as it is now'
        + variables.another
      : variables.saving.size() == 0
      ? ': upload.path: no container of the pod has a volume at ' + params.spec.upload.path
        + ', so what is saved there stays in its container. Mount a volume there, an emptyDir for example, or correct '
        + 'upload.path'
      : variables.unusable.upload[variables.saving[0]]
      ? [variables.holding.upload[variables.saving[0]][0]].map(m,
          ': upload.path: the upload cannot mount volume ' + m.mount.name + ' at ' + m.path + variables.elsewhere)[0]
      : ''
{{- end }}
